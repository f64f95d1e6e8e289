from knockapi import Knock


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return Knock(api_key="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.workflows.trigger(
        "audit", recipients=["audit"], data={"marker": marker}, **({"idempotency_key": key} if key else {})
    )
