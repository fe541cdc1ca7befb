"""A loopback server that speaks as much of OpenAI's API as the tests need."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def served(answer, key=None):
    """A server. `answer` gets a request's content and gives its choices (text, how it ended, and
    perhaps further fields), or a status with a message."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(content)
            status, body = 200, {}
            if key and self.headers["Authorization"] != f"Bearer {key}":
                status, body = 401, {"error": {"message": "no such key"}}
            elif self.path != "/v1/chat/completions":
                status, body = 404, {"error": {"message": "nothing here"}}
            elif isinstance(given := answer(content), tuple):
                status, body = given[0], {"error": {"message": given[1], "param": None}}
            elif isinstance(given, dict):
                body = given
            else:
                body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                body["choices"] = [
                    {"index": i, "finish_reason": end, "message": {"role": "assistant", "content": text}, **rest}
                    for i, (text, end, *more) in enumerate(given)
                    for rest in (more or [{}])
                ]
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
