from mailgun.client import Client


def client(url, options):
    return Client(auth=("api", "audit"), api_url=url, **options.given(timeout="timeout_s"))


def create(client, marker, key):
    message = {"from": "a@example.com", "to": "b@example.com", "subject": marker, "text": "audit"}
    response = client.messages.create(data=message, domain="example.com")
    # Answers of 4xx and 5xx are returned, not raised.
    response.raise_for_status()
