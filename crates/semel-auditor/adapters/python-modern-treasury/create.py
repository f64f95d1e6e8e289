from modern_treasury import ModernTreasury


def client(url, options):
    chosen = options.given(timeout="timeout_s", max_retries="max_retries")
    return ModernTreasury(api_key="audit", organization_id="audit", base_url=url, **chosen)


def create(client, marker, key):
    client.counterparties.create(
        name=marker, **({"idempotency_key": key} if key else {})
    )
