"""A small server that speaks OpenAI's chat API on the loopback, for tests of the endpoint."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, finish_reason="stop", tokens=None):
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny"}
    body |= {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}
    return (
        body
        if tokens is None
        else body | {"usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}}
    )


def refusal(message, status=400):
    """A status and the body of an error, as servers send them for a request that they do not take."""
    return status, {"error": {"message": message, "type": "invalid_request_error", "code": status}}


class ChatServer(ThreadingHTTPServer):
    """Answers with `reply(request)`: a body (JSON), bytes to send as they are, a status, or a status and a body."""

    daemon_threads = True

    def __init__(self, reply, models, owner, limits):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.models, self.requests = reply, models, []
        self.listed = {"object": "model", "owned_by": owner, **limits}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        models = [{"id": name, **self.server.listed} for name in self.server.models]
        self.send({"object": "list", "data": models})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(request)
        self.send(self.server.reply(request))

    def send(self, answer):
        if isinstance(answer, int):
            answer = answer, b""
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        whole = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        # Raw bytes are half an answer: more is announced than comes.
        self.send_header("content-length", str(len(whole) + (50 if isinstance(answer, bytes) else 0)))
        self.end_headers()
        self.wfile.write(whole)
        self.close_connection = isinstance(answer, bytes)

    def log_message(self, *_):
        pass


@contextmanager
def serving(reply, models=("tiny",), owner="me", **limits):
    server = ChatServer(reply, models, owner, limits)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
