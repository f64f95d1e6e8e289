"""Drives one Python SDK for `semel audit sdk`: scenarios in on stdin, what each call said out on stdout.

Started as `python3 -s -S driver.py CREATE PACKAGES READY`: an adapter's create.py, the folder its packages are
installed in, and the first line to print once the SDK is loaded. Knows no SDK and judges nothing; what was sent
is seen by the server alone. docs/guides/audit-adapters.md describes both sides.
"""

import importlib.util
import json
import os
import sys
import threading
import time

out = os.fdopen(os.dup(1), "w", buffering=1)
# What an SDK prints must not end up among the answers.
os.dup2(2, 1)
print_lock = threading.Lock()


def tell(line):
    with print_lock:
        out.write(json.dumps(line) + "\n")


def load(path):
    spec = importlib.util.spec_from_file_location("create", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Options:
    """What a scenario asks of the client; None stands for the SDK's own default."""

    def __init__(self, scenario):
        self.timeout_ms = scenario.get("timeout_ms")
        self.timeout_s = None if self.timeout_ms is None else self.timeout_ms / 1000
        self.max_retries = scenario.get("max_retries")
        self.deadline_ms = scenario.get("deadline_ms")

    def given(self, **names):
        """Keyword arguments for what is not None: `given(timeout="timeout_s")`."""
        values = {argument: getattr(self, name) for argument, name in names.items()}
        return {argument: value for argument, value in values.items() if value is not None}


def first(thing, *names):
    """The first attribute that is there and neither None nor a method."""
    for name in names:
        value = getattr(thing, name, None)
        if value is not None and not callable(value):
            return value
    return None


def headers_of(thing):
    try:
        return {str(name).lower(): str(value) for name, value in dict(thing or {}).items()}
    except (TypeError, ValueError):
        return {}


def number(value, kind):
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        return None


def key_of(error):
    """The key, where a caller who holds the error can read it: from it, or from the request it carries."""
    key = first(error, "idempotency_key")
    request = first(error, "request") or first(first(error, "response", "raw_response"), "request")
    sent = headers_of(first(request, "headers"))
    return key or next((value for name, value in sent.items() if "idempot" in name), None)


def what_it_says(error):
    """The generic reading of an exception: names that SDKs commonly use."""
    response = first(error, "response", "raw_response", "http_response")
    statuses = [first(error, "status_code", "http_status", "status", "code"), first(response, "status_code", "status")]
    status = next((found for found in (number(status, int) for status in statuses) if found and 100 <= found < 600), None)
    received = {**headers_of(first(response, "headers")), **headers_of(first(error, "headers"))}
    retry_after = first(error, "retry_after", "retry_after_s")
    retryable = first(error, "retryable", "is_retryable", "should_retry")
    return {
        "status": status,
        "error": f"{type(error).__name__}: {error}"[:300],
        "key": key_of(error),
        "retryable": retryable if isinstance(retryable, bool) else None,
        "attempts": number(first(error, "attempts", "attempt_count"), int),
        "retry_after_s": number(received.get("retry-after") if retry_after is None else retry_after, float),
    }


# The scenarios that were given up: they make no further call.
given_up = set()


def call(module, client, scenario, number_of_call):
    started = time.monotonic()
    said = {"scenario": scenario["name"], "call": number_of_call, "ok": True}
    try:
        module.create(client, f"semel-audit-{number_of_call}", scenario.get("key"))
    except BaseException as error:
        said["ok"] = False
        said.update(what_it_says(error))
        if hasattr(module, "said"):
            said.update(module.said(error) or {})
    said["took_ms"] = round((time.monotonic() - started) * 1000)
    tell(said)


def run(module, scenario):
    left = iter(range(scenario.get("calls") or 1))
    turn = threading.Lock()
    try:
        client = module.client(scenario["url"], Options(scenario))
    except BaseException as error:
        tell({"scenario": scenario["name"], "done": True, "error": f"{type(error).__name__}: {error}"[:300]})
        return

    def work():
        while True:
            with turn:
                number_of_call = next(left, None)
            if number_of_call is None or scenario["name"] in given_up:
                return
            call(module, client, scenario, number_of_call)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(scenario.get("parallel") or 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    tell({"scenario": scenario["name"], "done": True})


def main():
    create, packages, ready = sys.argv[1:4]
    sys.path.insert(0, packages)
    threading.stack_size(512 * 1024)
    module = load(create)
    tell(json.loads(ready))
    for line in sys.stdin:
        asked = json.loads(line)
        if "give_up" in asked:
            given_up.add(asked["give_up"])
        else:
            threading.Thread(target=run, args=(module, asked), daemon=True).start()
    # Calls that hang must not keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
