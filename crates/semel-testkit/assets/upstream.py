"""An API on Python's own HTTP server that charges for every request and writes each charge into its ledger.

Usage: upstream.py LEDGER HTTP/1.0|HTTP/1.1      prints the port it listens on
"""

import hashlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ledger = open(sys.argv[1], "a", encoding="utf-8")
writing = threading.Lock()
charges = 0


def number(text):
    return int(text) if text is not None else None


class Charging(BaseHTTPRequestHandler):
    protocol_version = sys.argv[2]

    def charge(self):
        global charges
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers.get("Idempotency-Key")
        entry = {
            "key": key,
            "attempt": number(self.headers.get("Idempotency-Attempt")),
            "token": number(self.headers.get("Idempotency-Token")),
            "method": self.command,
            "target": self.path,
            "body_bytes": len(body),
            "digest": hashlib.sha256(body).hexdigest(),
        }
        with writing:
            charges += 1
            mine = charges
            ledger.write(json.dumps(entry) + "\n")
            ledger.flush()
        delay_ms = parse_qs(urlsplit(self.path).query).get("delay_ms", ["0"])[0]
        time.sleep(int(delay_ms) / 1000)
        answer = json.dumps({"charge": mine, "key": key}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("Location", f"/charges/{mine}")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = charge

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    # The default of 5 makes connections wait a second when several come at once.
    request_queue_size = 512

    def handle_error(self, *_):
        """Says nothing: a caller that was killed is what the tests are about."""


server = Server(("127.0.0.1", 0), Charging)
print(server.server_address[1], flush=True)
server.serve_forever()
