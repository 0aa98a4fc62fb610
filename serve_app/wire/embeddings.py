"""OpenAI's embeddings response: written where the vectors are, and read from upstreams, which write it in many ways.

As written here everything but the vectors comes first, so that it can be read without them: a large answer has
hundreds of thousands of numbers, and no Gateway reads those of its own replicas.
"""

import base64
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from serve_app.errors import UpstreamError
from serve_app.wire.frames import Answer

_DATA: Final = b',"data":['
"""It cannot be inside a JSON string, where its quotes would be escaped."""
_ORDER: Final = "<f4"
"""Little-endian float32, as OpenAI has it in base64."""


@dataclass(frozen=True)
class EmbeddingAnswer(Answer):
    """An answer as `encode_embeddings` writes it."""

    @cached_property
    def parsed(self) -> dict[str, Any]:
        """All but the vectors."""
        head, _, _ = self.body.partition(_DATA)
        parsed: dict[str, Any] = orjson.loads(head + b"}")
        return parsed

    @property
    def truncated(self) -> int:
        """Inputs that were cut to the model's window."""
        return int(self.parsed.get("truncated") or 0)


def encode_embeddings(
    vectors: NDArray[np.float32], model: str, tokens: int, truncated: int = 0, *, plain: bool
) -> bytes:
    """The response object of vectors [inputs, dimensions]. `plain`: as arrays of numbers, else in base64."""
    written: list[Any]
    if plain:
        written = list(np.ascontiguousarray(vectors, np.float32))
    else:
        written = [base64.b64encode(row.tobytes()).decode() for row in vectors.astype(_ORDER)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _body(written, model, usage, {"truncated": truncated} if truncated else {})


def read_embeddings(body: bytes, inputs: int, *, plain: bool, repairs: Counter[str]) -> EmbeddingAnswer:
    """An upstream's answer to so many inputs, in the order and in the encoding that the caller requested.

    Raises UpstreamError for what is none. `repairs` counts vectors that came in the other encoding.
    """
    try:
        parsed = orjson.loads(body)
        entries = sorted(parsed["data"], key=lambda entry: entry["index"])
        vectors = [entry["embedding"] for entry in entries]
        if [entry["index"] for entry in entries] != list(range(inputs)):
            raise ValueError("not one vector for each input")
        written = [_encoded(vector, plain=plain) for vector in vectors]
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise UpstreamError(f"the upstream sent an answer that holds no embeddings ({type(e).__name__})") from None
    if any(new is not old for new, old in zip(written, vectors, strict=True)):
        repairs["encoding"] += 1
    usage, model = parsed.get("usage"), parsed.get("model")
    counted = usage if isinstance(usage, dict) else {"prompt_tokens": 0, "total_tokens": 0}
    return EmbeddingAnswer(_body(written, model if isinstance(model, str) else "", counted, {}))


def _encoded(vector: Any, *, plain: bool) -> Any:
    """The vector in one of the two encodings; the same object where it is in that already."""
    if isinstance(vector, str):
        numbers = np.frombuffer(base64.b64decode(vector, validate=True), _ORDER)
        if not numbers.size:
            raise ValueError("no vector")
        return numbers.astype(np.float32) if plain else vector
    if not isinstance(vector, list) or not vector:
        raise ValueError("no vector")
    with np.errstate(over="ignore"):  # what is no float32 becomes infinite
        numbers = np.array(vector, np.float32)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError("no vector of numbers")
    return vector if plain else base64.b64encode(numbers.astype(_ORDER).tobytes()).decode()


def _body(vectors: list[Any], model: str, usage: dict[str, Any], more: dict[str, Any]) -> bytes:
    head = orjson.dumps({"object": "list", "model": model, "usage": usage, **more})
    entries = [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)]
    return head[:-1] + b',"data":' + orjson.dumps(entries, option=orjson.OPT_SERIALIZE_NUMPY) + b"}"
