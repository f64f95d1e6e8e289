from orb import Orb


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return Orb(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.customers.create(
        email="audit@example.com", name=marker, **({"idempotency_key": key} if key else {})
    )
