"""Requests for the tests of the engine's parts, with ids as text: token 3 reads "<3>"."""

from serve_app.engines.further import NEUTRAL
from serve_app.engines.transformers.sequence import Request
from serve_app.types import Sampling

EOS = 2


def decode(ids) -> str:
    return "".join(f"<{i}>" for i in ids)


def request(prompt=(5, 6, 7), *, room=100, read=decode, further=NEUTRAL, **sampling) -> Request:
    options = Sampling(**{"temperature": 0.0, **sampling})
    return Request.of(options, list(prompt), room=room, decode=read, eos_ids=frozenset([EOS]), further=further)
