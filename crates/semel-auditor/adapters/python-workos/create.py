from workos import WorkOSClient


def client(url, options):
    retries = options.given(max_retries="max_retries")
    sdk = WorkOSClient(api_key="sk_test_audit", client_id="client_audit", base_url=url, **retries)
    return sdk, options.given(timeout="timeout_s")


def create(client, marker, key):
    sdk, request_options = client
    if key:
        request_options = {**request_options, "idempotency_key": key}
    sdk.organizations.create_organization(name=marker, request_options=request_options)
