"""A client of a running endpoint over plain HTTP, and decisions as text for the terminal."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import orjson

from serve_app.errors import ConfigError, UpstreamError
from serve_app.numbers import fixed, significant, usd

_CONNECT_TIMEOUT_S = 5.0
_READ_TIMEOUT_S = 600.0
"""As long as the endpoint's own default deadline: it ends a request that takes longer, not this client."""


class Endpoint:
    """A client of one endpoint. `url` may or may not end in /v1."""

    def __init__(self, url: str, key: str | None = None, key_env: str = "JETHRO_API_KEY") -> None:
        """`key_env` is where the key was read from, for the message where it is refused."""
        self._key_env = key_env
        self.url = url.rstrip("/").removesuffix("/v1")
        with self._mapped():
            self._client = httpx.Client(
                base_url=self.url,
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeout=httpx.Timeout(_READ_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def route(self, body: dict[str, Any]) -> dict[str, Any]:
        """The decision for a chat request; no model is called. Raises JethroError with the endpoint's own message."""
        return self.call("POST", "/v1/route", body)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What a route answers. Raises JethroError with the endpoint's own message."""
        with self._mapped():
            response = self._client.request(method, path, json=body)
            self._check(response)
            answer: dict[str, Any] = response.json()
            return answer

    def get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        """What a route answers to a query. Raises JethroError with the endpoint's own message."""
        with self._mapped():
            response = self._client.get(path, params=dict(query))
            self._check(response)
            answer: dict[str, Any] = response.json()
            return answer

    def call_stream(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the route of a named stream answers; see `call`. Raises ConfigError for an invalid name.

        Such a name is not sent: it might be another route.
        """
        from serve_app.streams.spec import is_name

        if not is_name(name):
            raise ConfigError(f"No stream {name[:60]!r}: names are of a-z, 0-9, _ and -, 48 at most")
        return self.call(method, f"/v1/streams/{name}", body)

    def stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Events of a streamed chat answer; first one `{"headers": {...}}`, the decision headers without `x-jethro-`.

        Raises UpstreamError if the stream ends with an error event or is cut before `[DONE]`.
        """
        with self._mapped(), self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            self._check(response)
            prefix = "x-jethro-"
            yield {"headers": {k.removeprefix(prefix): v for k, v in response.headers.items() if k.startswith(prefix)}}
            for line in response.iter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if data == "[DONE]":
                    return
                if data:
                    yield _event(data)
        raise UpstreamError("the answer was cut: the stream ended without [DONE]; try again")

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as e:
            raise ConfigError(f"--url {self.url}: {e}; write it as http://127.0.0.1:8000") from e
        except (httpx.ConnectError, httpx.ConnectTimeout) as e:
            raise ConfigError(f"no endpoint at {self.url}: start it with `jethro serve`, or give --url") from e
        except (httpx.HTTPError, ValueError) as e:
            raise UpstreamError(f"{self.url}: {e or type(e).__name__}") from e

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        response.read()
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = response.text[:200] or response.reason_phrase
        hint = f"; export {self._key_env} with a key of this endpoint" if response.status_code == 401 else ""
        raise UpstreamError(f"{self.url} answered {response.status_code}: {message}{hint}")


def _event(data: str) -> dict[str, Any]:
    event: dict[str, Any] = orjson.loads(data)
    if "error" in event:
        raise UpstreamError(f"the answer was cut: {event['error'].get('message', event['error'])}")
    return event


_FEATURES_SHOWN = 6
_CONTROL = {c: None for c in (*range(32), 127, *range(128, 160)) if chr(c) not in "\n\t"}


def printable(text: str) -> str:
    """A model's text without control characters, which could command the terminal."""
    return text.translate(_CONTROL)


def explain_answer(decision: Mapping[str, Any]) -> str:
    """Under an answer: the model, the reason, the cost, and what to know of it on a line of its own.

    `decision` is the `jethro` object or its headers.
    """
    names = " ".join(str(decision[k]) for k in ("pool", "model") if decision.get(k))
    parts = [names, str(decision.get("reason") or _score(decision))]
    if (cost_usd := decision.get("cost_usd", decision.get("cost-usd"))) is not None:
        parts.append(usd(float(cost_usd)))
    if decision.get("usage"):
        parts.append(f"{decision['usage'].get('completion_tokens', 0)} tokens")
    line = "[" + " · ".join(p for p in parts if p) + "]"
    return printable(line + (f"\nwarning: {decision['warning']}" if decision.get("warning") else ""))


def explain_decision(decision: Mapping[str, Any]) -> str:
    """Several lines: the choice and its reason, the expected outcome of each action, top features."""
    rows = [("answers", f"{decision.get('pool', '?')} ({decision.get('model', '?')})")]
    rows += [("because", str(decision.get("reason") or _score(decision)))]
    rows += [(name, str(decision[name])) for name in ("strategy", "router", "warning") if decision.get(name)]
    for action, figures in (decision.get("expected") or {}).items():
        rows.append((f"expects {action}", ", ".join(f"{k} {significant(float(v))}" for k, v in figures.items())))
    features = [f for f in (decision.get("features") or {}).items() if f[0] != "bias"][:_FEATURES_SHOWN]
    if features:
        rows.append(
            ("features", ", ".join(f"{name} {fixed(float(weight), 2, sign=True)}" for name, weight in features))
        )
    width = max(len(name) for name, _ in rows) + 2
    return printable("\n".join(f"{name:<{width}}{text}" for name, text in rows))


def _score(decision: Mapping[str, Any]) -> str:
    """`0.031 < 0.42`: the strong win rate against the threshold; empty where nothing was scored."""
    score, threshold = decision.get("score"), decision.get("threshold")
    if score in (None, "") or threshold in (None, ""):
        return ""
    sign = ">=" if float(score) >= float(threshold) else "<"
    return f"{fixed(float(score), 3)} {sign} {fixed(float(threshold), 3)}"
