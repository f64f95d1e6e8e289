from courier import Courier


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return Courier(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.send.message(
        message={"to": {"email": "audit@example.com"}, "content": {"title": marker, "body": marker}}, extra_headers={"Idempotency-Key": key} if key else None
    )
