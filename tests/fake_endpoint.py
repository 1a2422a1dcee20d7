"""A chat server on loopback that misbehaves as told, for tests of everything that asks one.

    with FakeEndpoint(script={"cat": ["429", "ok"]}) as server:
        ...server.url, server.paid("cat"), server.calls, server.most_at_once...

`script`: question -> what its first, second, ... request meets; then, and for other questions,
"ok". A question is the last text of the user's first message. `answer(question, body)`: the text of
an "ok" reply. What a request can meet:

ok           an answer
429, 429:S   too many requests (with Retry-After: S seconds)
500, 503:S   server errors (with Retry-After)
401, 404, 400   these errors
nomoney      429 insufficient_quota
moderated    400 content_filter
refusal      a refusal
length       finish_reason length
empty        an answer without text
nousage      an answer without token counts
spent        an answer, and headers that say: no request left for 0.4 s
page         HTTP 200 with an HTML page
garbage      HTTP 200, half a JSON text
cut          the line is cut in the middle of the body
drop         the line is cut before any byte
hang         nothing at all for `hang` seconds
drip         a blank every 50 ms, never an answer
a dict       that object, with HTTP 200; bytes: that body
a function   f(question, body) -> (status, object or bytes), or a mood

`models`: the names that GET /v1/models lists. `calls`: a dict per request, with path and headers.
"""

import json
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROMPT_TOKENS, COMPLETION_TOKENS = 100, 10
# What a real provider would charge for.
ANSWERED = {"ok", "refusal", "length", "empty", "nousage", "spent", "cut"}


def question(body):
    "The last text of the user's first message."
    content = next(m["content"] for m in body["messages"] if m["role"] == "user")
    return (
        content
        if isinstance(content, str)
        else [p["text"] for p in content if p["type"] == "text"][-1]
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.fake.serve(self, body)

    def do_GET(self):
        models = [dict(id=name, object="model") for name in self.server.fake.models]
        self.send(dict(object="list", data=models))

    def send(self, data, status=200, cut=None, **headers):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for k, v in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(k.replace("_", "-"), str(v))
        self.end_headers()
        self.wfile.write(data[:cut])
        if cut is not None:
            self.hang_up()

    def hang_up(self):
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def error(self, status, code=None, **headers):
        self.send(
            dict(error=dict(message=f"error {status} on purpose", code=code)), status, **headers
        )


class Server(ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 128

    def handle_error(self, request, client):
        pass  # clients that were killed, or gave up


class FakeEndpoint:
    def __init__(self, script=None, answer=None, seconds=0.0, hang=30.0, models=()):
        self.models = models
        self.script = {k: list(v) for k, v in (script or {}).items()}
        self.seconds, self.hang = seconds, hang
        self.answer = answer or (lambda question, body: f"answer to {question}")
        self.lock, self.visits, self.calls = threading.Lock(), Counter(), []
        self.at_once = self.most_at_once = 0
        self.ended = threading.Event()

    def __enter__(self):
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.fake = self
        threading.Thread(
            target=self.server.serve_forever, kwargs=dict(poll_interval=0.02), daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        return self

    def __exit__(self, *exc):
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def paid(self, q):
        return sum(c["question"] == q and c["mood"] in ANSWERED for c in self.calls)

    def serve(self, handler, body):
        q, start = question(body), time.time()
        with self.lock:
            turn = self.visits[q]
            self.visits[q] += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            moods = self.script.get(q, [])
            mood = moods[turn] if turn < len(moods) else "ok"
            call = dict(question=q, mood=mood, start=start, end=None, body=body)
            call |= dict(path=handler.path, headers=dict(handler.headers))
            self.calls.append(call)
        try:
            self.ended.wait(self.seconds)
            # The answer is on its way from here on: the client may start its next request before
            # this thread gets to run again.
            with self.lock:
                self.at_once -= 1
            self.meet(handler, mood, q, body)
        finally:
            call["end"] = time.time()

    def meet(self, h, mood, q, body):
        if callable(mood):
            mood = mood(q, body)
        if not isinstance(mood, str):
            status, data = mood if isinstance(mood, tuple) else (200, mood)
            return h.send(data, status)
        kind, _, wait = mood.partition(":")
        if kind == "hang":
            self.ended.wait(self.hang)
            return h.hang_up()
        if kind == "drip":
            return self.drip(h)
        if kind == "drop":
            return h.hang_up()
        if kind == "page":
            return h.send(b"<html>Welcome</html>")
        if kind == "nomoney":
            return h.error(429, "insufficient_quota")
        if kind == "moderated":
            return h.error(400, "content_filter")
        if kind.isdigit():
            return h.error(int(kind), **({"Retry_After": wait} if wait else {}))
        self.reply(h, kind, self.completion(kind, q, body))

    def completion(self, kind, q, body):
        text = "" if kind == "empty" else self.answer(q, body)
        message = dict(
            role="assistant",
            content=None if kind == "refusal" else text,
            refusal="I will not." if kind == "refusal" else None,
        )
        usage = (
            {}
            if kind == "nousage"
            else dict(
                usage=dict(
                    prompt_tokens=PROMPT_TOKENS,
                    completion_tokens=COMPLETION_TOKENS,
                    total_tokens=PROMPT_TOKENS + COMPLETION_TOKENS,
                )
            )
        )
        return dict(
            id="x",
            object="chat.completion",
            model=body["model"],
            choices=[
                dict(
                    index=0, message=message, finish_reason="length" if kind == "length" else "stop"
                )
            ],
            **usage,
        )

    def reply(self, h, kind, completion):
        data = json.dumps(completion).encode()
        if kind == "garbage":
            return h.send(data[: len(data) // 2])
        if kind == "cut":
            return h.send(data, cut=len(data) // 2)
        if kind == "spent":
            return h.send(
                data, **{"x_ratelimit_remaining_requests": 0, "x_ratelimit_reset_requests": "400ms"}
            )
        h.send(data)

    def drip(self, h):
        h.send_response(200)
        h.send_header("Content-Length", "1000000")
        h.end_headers()
        while not self.ended.wait(0.05):
            h.wfile.write(b" ")
