from square import Square


def client(url, options):
    sdk = Square(token="audit", base_url=url, **options.given(timeout="timeout_s"))
    return sdk, options.given(max_retries="max_retries")


def create(client, marker, key):
    sdk, request_options = client
    chosen = {"idempotency_key": key} if key else {}
    sdk.customers.create(given_name=marker, request_options=request_options, **chosen)
