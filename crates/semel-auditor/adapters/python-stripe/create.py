import stripe


def client(url, options):
    transport = stripe.RequestsClient(**options.given(timeout="timeout_s"))
    retries = options.given(max_network_retries="max_retries")
    return stripe.StripeClient("sk_test_audit", base_addresses={"api": url}, http_client=transport, **retries)


def create(client, marker, key):
    client.v1.customers.create(params={"name": marker}, options={"idempotency_key": key} if key else {})
