from mollie import ClientSDK
from mollie.models import Security


def client(url, options):
    chosen = options.given(timeout_ms="timeout_ms")
    if options.max_retries == 0:
        chosen["retry_config"] = None
    return ClientSDK(security=Security(api_key="test_audit"), server_url=url, **chosen)


def create(client, marker, key):
    client.customers.create(entity_customer={"name": marker}, idempotency_key=key)
