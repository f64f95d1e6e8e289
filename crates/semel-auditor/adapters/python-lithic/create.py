from lithic import Lithic


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return Lithic(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.cards.create(
        type="VIRTUAL", memo=marker, extra_headers={"Idempotency-Key": key} if key else None
    )
