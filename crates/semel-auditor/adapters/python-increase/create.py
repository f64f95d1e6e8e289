from increase import Increase


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return Increase(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.accounts.create(
        name=marker, **({"idempotency_key": key} if key else {})
    )
