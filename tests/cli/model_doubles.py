"""Two models behind one OpenAI-compatible address that answer sums: a weak one right on 60 %, a strong one on 93 %.

What each says to a prompt is a function of the prompt, so that a served answer is the collected one. Longer sums are
harder, and the weak model's log-probability shows how likely it is to be right, as far as it knows. They list their
names at /v1/models, label reviews (the strong one rightly in 93 % of them), and greet whoever gives neither.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Lock, Thread
from typing import Any

import yaml

WEAK, STRONG = "double-small", "double-large"
_RIGHT = {WEAK: (1.08, 0.095), STRONG: (1.11, 0.02)}
"""Probability of a right answer: intercept, and what each term of the sum takes away."""
_LABELED = {WEAK: 0.6, STRONG: 0.93}
"""Probability of the right label of a review."""
_MOST_TERMS = 8


@dataclass
class ModelDoubles:
    """`calls` holds the model of every call that arrived. `mute`: answer without log-probabilities."""

    mute: bool = False
    url: str = ""
    calls: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)


def prompts(n: int, seed: int) -> list[dict[str, Any]]:
    """Sums of 2 to 8 terms with their reference, all different; `group` is the number of terms."""
    rng = Random(seed)
    rows = {}
    while len(rows) < n:
        terms = [rng.randrange(10, 1000) for _ in range(rng.randint(2, _MOST_TERMS))]
        rows[f"What is {' + '.join(map(str, terms))}?"] = terms
    return [{"id": str(i), "prompt": p, "reference": str(sum(t))} for i, (p, t) in enumerate(rows.items())]


def answer_of(model: str, prompt: str) -> tuple[str, float]:
    """The answer and the log-probability of its one token; anything but a sum or a review is greeted."""
    if prompt.startswith("Review: "):
        return label_of(model, prompt), -0.1
    if not prompt.startswith("What is "):
        return "Hello.", -0.1
    terms = [int(word) for word in prompt.removeprefix("What is ").removesuffix("?").split(" + ")]
    rng = Random(blake2b(f"{model}\n{prompt}".encode(), digest_size=8).digest())
    start, each = _RIGHT[model]
    likely = min(max(start - each * len(terms) + rng.gauss(0.0, 0.15), 0.02), 0.98)
    right = rng.random() < likely
    return str(sum(terms) + (0 if right else rng.randint(1, 9))), math.log(likely)


TOPICS = {
    "food": ["soup", "bread", "salt", "plate", "sauce", "dessert", "menu", "taste"],
    "room": ["bed", "shower", "pillow", "window", "towel", "carpet", "lamp", "noise"],
    "staff": ["waiter", "smile", "desk", "manager", "greeting", "porter", "help", "answer"],
}
"""Labels of reviews, with words that are mostly theirs."""
_FILLERS = [f"thing{i}" for i in range(60)]


def reviews(n: int, seed: int) -> list[dict[str, str]]:
    """Reviews of one topic each: `text`, and the topic as `label`."""
    rng, rows = Random(seed), []
    for number in range(n):
        label = rng.choice(list(TOPICS))
        words = rng.choices(TOPICS[label], k=2) + rng.choices(TOPICS[rng.choice(list(TOPICS))], k=1)
        words += rng.choices(_FILLERS, k=3)
        rng.shuffle(words)
        rows.append({"text": f"Review: {' '.join(words)}, day {number}.", "label": label})
    return rows


def label_of(model: str, text: str) -> str:
    """The topic with most words of a review, or another one where the model errs."""
    words = text.replace(",", "").split()
    rng = Random(blake2b(f"{model}\n{text}".encode(), digest_size=8).digest())
    likely = max(TOPICS, key=lambda topic: sum(word in TOPICS[topic] for word in words))
    return likely if rng.random() < _LABELED[model] else rng.choice([topic for topic in TOPICS if topic != likely])


def config(doubles: ModelDoubles, registry: Path, **more: Any) -> dict[str, Any]:
    """A config with both as upstreams."""
    prices = {"small": (0.5, 1.0), "large": (10.0, 20.0)}
    pools = {
        name: {
            "model": model,
            "engine": {"kind": "openai", "urls": [f"{doubles.url}/v1"], "logprobs": not doubles.mute},
            "price": {"input_usd_per_million": prices[name][0], "output_usd_per_million": prices[name][1]},
        }
        for name, model in (("small", WEAK), ("large", STRONG))
    }
    store = {"path": str(registry.parent / "store.sqlite3")}
    routing = {"registry": str(registry), **more.pop("routing", {})}
    return {"pools": pools, "routing": routing, "store": store, "log": {"access": False}, **more}


def write_config(path: Path, tree: dict[str, Any]) -> str:
    """The config as a file."""
    path.write_text(yaml.safe_dump(tree), "utf-8")
    return str(path)


def write_prompts(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@contextmanager
def answering(doubles: ModelDoubles) -> Iterator[ModelDoubles]:
    """The models at a free port while the block runs."""
    http = _Quiet(("127.0.0.1", 0), _handler(doubles))
    doubles.url = f"http://127.0.0.1:{http.server_port}"
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield doubles
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up on a stream they no longer need reset their connections."""


def _handler(doubles: ModelDoubles) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            """Below /weak/v1 and /strong/v1 one model is listed, below /v1 both."""
            below = {"weak": (WEAK,), "strong": (STRONG,), "v1": (WEAK, STRONG)}
            known = below.get(self.path.split("/")[1], ()) if self.path.endswith("/v1/models") else ()
            data = [{"id": model, "object": "model", "max_model_len": 8192} for model in known]
            body = {"object": "list", "data": data} if known else {"error": {"message": f"no route {self.path}"}}
            self._send(json.dumps(body), "application/json", 200 if known else 404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if body["model"] not in _RIGHT:
                error = {"message": f"no model {body['model']}", "code": "model_not_found"}
                self._send(json.dumps({"error": error}), "application/json", 404)
                return
            with doubles.lock:
                doubles.calls.append(body["model"])
            text, logprob = answer_of(body["model"], body["messages"][-1]["content"])
            token = {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            if body.get("top_logprobs"):
                other = math.log(max(1.0 - math.exp(logprob), 1e-9))
                pairs = sorted(((text, logprob), ("?", other)), key=lambda pair: -pair[1])
                token["top_logprobs"] = [{"token": t, "logprob": v, "bytes": None} for t, v in pairs]
            logprobs = {"content": [token], "refusal": None} if body.get("logprobs") and not doubles.mute else None
            usage = {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}
            send = self._stream if body.get("stream") else self._whole
            send(body["model"], text, logprobs, usage)

        def _whole(self, model: str, text: str, logprobs: Any, usage: Any) -> None:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": logprobs}
            head = {"id": "x", "object": "chat.completion", "created": 1, "model": model, "usage": usage}
            self._send(json.dumps({**head, "choices": [{**choice, "finish_reason": "stop"}]}), "application/json")

        def _stream(self, model: str, text: str, logprobs: Any, usage: Any) -> None:
            head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": model}
            delta = {"role": "assistant", "content": text}
            chunks = [
                {**head, "choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]},
                {**head, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]},
                {**head, "choices": [], "usage": usage},
            ]
            lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
            self._send("".join([*lines, "data: [DONE]\n\n"]), "text/event-stream")

        def _send(self, text: str, kind: str, status: int = 200) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler
