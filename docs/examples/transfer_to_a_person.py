"""Passes callers who ask for a person on to TRANSFER_TO: set WEBHOOK_URL=http://127.0.0.1:8080/ and WEBHOOK_SECRET.

WEBHOOK_SECRET=… python docs/examples/transfer_to_a_person.py
"""

import base64
import hmac
import json
import os
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name, moment = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        signature = hmac.digest(os.environ["WEBHOOK_SECRET"].encode(), f"{name}.{moment}.".encode() + body, "sha256")
        is_ours = hmac.compare_digest(self.headers["webhook-signature"], f"v1,{base64.b64encode(signature).decode()}")
        if not is_ours or abs(time.time() - int(moment)) > 300:  # forged, or sent once more by somebody else
            return self.send_error(401)
        event = json.loads(body)
        wants_person = event["type"] == "caller.said" and re.search("person|human|agent", event["data"]["text"], re.I)
        answer = json.dumps({"transfer": ""} if wants_person else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        return None


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Receiver).serve_forever()
