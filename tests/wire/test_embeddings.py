"""Embeddings of upstreams, read as the caller requested them."""

import base64
from collections import Counter
from typing import Any

import numpy as np
import orjson
import pytest

from serve_app.errors import UpstreamError
from serve_app.types import Usage
from serve_app.wire.embeddings import read_embeddings

CODED = base64.b64encode(np.array([0.5, -0.25], "<f4").tobytes()).decode()
NUMBERS = [0.5, -0.25]


def upstream(*vectors: Any, **rest: Any) -> bytes:
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return orjson.dumps({"object": "list", "data": data, "model": "m", "usage": usage, **rest})


@pytest.mark.parametrize(
    ("sent", "plain", "read", "repaired"),
    [(NUMBERS, True, NUMBERS, 0), (CODED, False, CODED, 0), (NUMBERS, False, CODED, 1), (CODED, True, NUMBERS, 1)],
)
def test_the_encoding_is_the_callers(sent: Any, plain: bool, read: Any, repaired: int) -> None:
    repairs = Counter[str]()
    answer = read_embeddings(upstream(sent, sent), 2, plain=plain, repairs=repairs)
    assert [e["embedding"] for e in orjson.loads(answer.body)["data"]] == [read, read]
    assert answer.usage == Usage(3, 0)
    assert repairs["encoding"] == repaired


def test_vectors_come_in_the_order_of_the_inputs() -> None:
    body = orjson.loads(upstream([1.0], [2.0], [3.0]))
    body["data"].reverse()
    answer = read_embeddings(orjson.dumps(body), 3, plain=True, repairs=Counter())
    assert [e["embedding"] for e in orjson.loads(answer.body)["data"]] == [[1.0], [2.0], [3.0]]


def test_usage_may_be_missing() -> None:
    assert read_embeddings(upstream([1.0], usage=None), 1, plain=True, repairs=Counter()).usage == Usage()


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b"not json",
        upstream(),
        upstream([1.0], [2.0]),
        upstream([]),
        upstream(None),
        upstream(["a"]),
        upstream([[1.0]]),
        upstream("no base64!"),
        upstream("AAA="),
        upstream([1e300]),
        orjson.dumps({"data": [{"embedding": [1.0]}]}),
        orjson.dumps({"data": [{"index": "0", "embedding": [1.0]}]}),
        orjson.dumps({"data": {"a": 1}}),
        orjson.dumps({"data": [None]}),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_what_holds_no_embeddings_is_an_upstreams_fault(body: bytes, plain: bool) -> None:
    with pytest.raises(UpstreamError, match="holds no embeddings"):
        read_embeddings(body, 1, plain=plain, repairs=Counter())
