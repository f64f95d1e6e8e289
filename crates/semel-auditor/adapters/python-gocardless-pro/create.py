import gocardless_pro


def client(url, options):
    return gocardless_pro.Client(access_token="audit", base_url=url, **options.given(timeout="timeout_s"))


def create(client, marker, key):
    headers = {"Idempotency-Key": key} if key else None
    client.customers.create(params={"given_name": marker, "family_name": "audit"}, headers=headers)
