from svix.api import ApplicationCreateOptions, ApplicationIn, Svix, SvixOptions


def client(url, options):
    chosen = options.given(timeout="timeout_s")
    if options.max_retries is not None:
        chosen["retry_schedule"] = [0.05 * 2**n for n in range(options.max_retries)]
    return Svix("audit", SvixOptions(server_url=url, **chosen))


def create(client, marker, key):
    application = ApplicationIn(name=marker)
    client.application.create(application, ApplicationCreateOptions(idempotency_key=key))
