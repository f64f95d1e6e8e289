from anthropic import Anthropic


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return Anthropic(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.messages.create(
        model="audit", max_tokens=1, messages=[{"role": "user", "content": marker}], extra_headers={"Idempotency-Key": key} if key else None
    )
