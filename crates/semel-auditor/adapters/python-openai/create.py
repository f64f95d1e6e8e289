from openai import OpenAI


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return OpenAI(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.chat.completions.create(
        model="audit", messages=[{"role": "user", "content": marker}], extra_headers={"Idempotency-Key": key} if key else None
    )
