"""An OpenAI-compatible endpoint on this machine that judges as it is told: `with Endpoint(longer) as endpoint: …`"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from posweep.judges.comparison import INSTRUCTION, PLACEHOLDER
from posweep.settings import LlmSettings

Verdict = Callable[[str, str, str], str]
"""The text of the answer, given prompt, first and second response."""


def longer(prompt: str, first: str, second: str) -> str:
    """The longer response wins, wherever it stands."""
    return "[[C]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]"


def always(text: str) -> Verdict:
    """The same answer to everything; `always("[[A]]")` likes the first place."""
    return lambda prompt, first, second: text


@dataclass(frozen=True)
class Reply:
    """What is answered in place of a verdict, after some seconds, and after `trickle` more for each byte.

    A body of text is sent as it is.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    trickle: float = 0.0


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error in the words endpoints use."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": {"message": message, "code": code}}, named)


def limited(seconds: float) -> Reply:
    """A rate limit that says how long to wait, in seconds."""
    return refusal(429, "slow down", Retry_After=str(seconds))


def completion(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion that took ten tokens to ask and two to answer."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }  # fmt: skip


def wants_the_new_limit(body: Mapping[str, Any]) -> str:
    """Newer models of Azure: `max_completion_tokens` alone."""
    if "max_tokens" not in body:
        return ""
    return "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


def wants_temperature_one(body: Mapping[str, Any]) -> str:
    """Models that are drawn at 1."""
    if body.get("temperature", 1) == 1:
        return ""
    return (
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."
    )


def wants_no_temperature(body: Mapping[str, Any]) -> str:
    """Models that decide for themselves."""
    return "`temperature` is deprecated for this model." if "temperature" in body else ""


def wants_both(body: Mapping[str, Any]) -> str:
    """One thing after the other, as the models that reason before they answer."""
    return wants_the_new_limit(body) or wants_temperature_one(body)


class Endpoint:
    """A server on a port of its own; everything may be changed while it runs.

    Attributes:
        verdict: answers comparisons.
        script: replies to the next calls, in order, before any verdict.
        reply: where not None, the reply to every call after the script.
        seconds: what every verdict takes.
        key: where not None, the only key that is let in; a refusal repeats the key that was sent.
        model: the only model there is.
        form: what is wrong with a request's parameters, in the endpoint's words; empty where it takes them.
        instruction: how texts are found in a call.
        calls: requests so far, refused ones included.
        judged: prompt, first and second of every comparison answered, in the order of answers.
        bodies: every request's JSON.
        keys: every request's Authorization header.
        most_at_once: the most requests that were open at one time.
    """

    def __init__(self, verdict: Verdict = longer, seconds: float = 0.0, key: str | None = None):
        self.verdict, self.seconds, self.key = verdict, seconds, key
        self.script: list[Reply] = []
        self.reply: Reply | None = None
        self.model = "judge"
        self.form: Callable[[Mapping[str, Any]], str] = lambda body: ""
        self.instruction = INSTRUCTION
        self.calls = self.most_at_once = self._open = 0
        self.judged: list[tuple[str, str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.closed, self._lock = threading.Event(), threading.Lock()

    def __enter__(self) -> "Endpoint":
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What `judge.llm.base_url` takes."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def settings(self, **changes: Any) -> LlmSettings:
        """A judge that asks here."""
        return LlmSettings(**{"base_url": self.url, "model": self.model, "timeout": 10.0, **changes})

    def answer(self, path: str, key: str, body: dict[str, Any]) -> Reply:
        """What becomes of one request."""
        with self._lock:
            self.calls += 1
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
            self.bodies.append(body)
            self.keys.append(key)
            scripted = self.script.pop(0) if self.script else self.reply
        reply = scripted or self._refusal(path, key, body) or self._judgement(body["messages"][0]["content"])
        self.closed.wait(reply.seconds)
        with self._lock:
            self._open -= 1
        return reply

    def _refusal(self, path: str, key: str, body: dict[str, Any]) -> Reply | None:
        if self.key is not None and key != f"Bearer {self.key}":
            return refusal(401, f"Incorrect API key provided: {key.removeprefix('Bearer ')}")
        if path != "/v1/chat/completions" or body["model"] != self.model:
            return refusal(404, f"The model {body['model']} does not exist", "model_not_found")
        said = self.form(body)
        return refusal(400, said, "unsupported_parameter") if said else None

    def _judgement(self, content: str) -> Reply:
        texts = _texts(self.instruction, content)
        if texts is None:
            return Reply(200, completion("[[C]]"))
        text = self.verdict(*texts)
        with self._lock:
            self.judged.append(texts)
        return Reply(200, completion(text), seconds=self.seconds)


def _texts(instruction: str, content: str) -> tuple[str, str, str] | None:
    """Prompt, first and second response of a call; None where it is no comparison."""
    names = PLACEHOLDER.findall(instruction)
    pattern = "(.*?)".join(re.escape(part) for part in PLACEHOLDER.split(instruction)[::2])
    found = re.fullmatch(pattern, content, re.DOTALL)
    if found is None:
        return None
    texts = dict(zip(names, found.groups(), strict=True))
    return texts["prompt"], texts["first"], texts["second"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def _handler(endpoint: Endpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer: two would wait for each other

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = endpoint.answer(self.path, self.headers.get("Authorization", ""), body)
            plain = isinstance(reply.body, str)
            data = (reply.body if plain else json.dumps(reply.body)).encode()
            with suppress(ConnectionError):  # the caller may have given up
                self.send_response(reply.status)
                self.send_header("Content-Type", "text/html" if plain else "application/json")
                self.send_header("Content-Length", str(len(data)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for part in [data[i : i + 1] for i in range(len(data))] if reply.trickle else [data]:
                    self.wfile.write(part)
                    self.wfile.flush()
                    endpoint.closed.wait(reply.trickle)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
