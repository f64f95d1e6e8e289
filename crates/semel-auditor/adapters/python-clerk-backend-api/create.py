from clerk_backend_api import Clerk


def client(url, options):
    chosen = options.given(timeout_ms="timeout_ms")
    if options.max_retries == 0:
        chosen["retry_config"] = None
    return Clerk(bearer_auth="audit", server_url=url, **chosen)


def create(client, marker, key):
    headers = {"Idempotency-Key": key} if key else None
    client.organizations.create(request={"name": marker}, http_headers=headers)
