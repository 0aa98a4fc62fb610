""""""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from serve_app.errors import ConfigError
from serve_app.routing.drift import FEATURES, MIN_QUERIES, InputDrift, Inputs, VectorDrift, unknown_share, word_hash
from serve_app.types import Message, Query

_WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)]


def prompts(n: int, seed: int, words: list[str] = _WORDS, length: int = 8) -> list[Query]:
    """Sentences of words whose frequency falls as in language."""
    rng = Random(seed)
    weights = [1 / (i + 1) for i in range(len(words))]
    texts = (" ".join(rng.choices(words, weights, k=rng.randint(3, length))) + "?" for _ in range(n))
    return [Query((Message("user", text),)) for text in texts]


def moved(reference: Inputs, live: list[Query]) -> tuple[bool, str]:
    drift = InputDrift(reference)
    for query in live:
        drift.add(query)
    reading = drift.reading()
    return reading.statistic > reading.limit, drift.furthest


@pytest.mark.slow
def test_more_of_the_same_is_no_drift_also_in_rare_words() -> None:
    raised = 0
    for seed in range(12):
        reference = Inputs.of(prompts(500, seed))
        raised += (
            moved(reference, prompts(MIN_QUERIES, seed + 1000))[0] + moved(reference, prompts(600, seed + 2000))[0]
        )
    assert raised <= 1


@pytest.mark.parametrize(
    ("live", "feature"),
    [
        (prompts(300, 7, [f"neu{w}" for w in _WORDS]), "unknown_words"),
        (prompts(300, 7, length=40), "words"),
        ([Query((*q.messages, Message("assistant", "ok"), *q.messages)) for q in prompts(300, 7)], "turns"),
    ],
)
def test_what_moved_is_named(live: list[Query], feature: str) -> None:
    drifted, furthest = moved(Inputs.of(prompts(800, 0)), live)
    assert drifted and furthest in (feature, "history_chars" if feature == "turns" else "chars")


def test_no_text_of_anybody_is_kept(tmp_path: Path) -> None:
    Inputs.of(prompts(50, 0)).save(tmp_path / "inputs.npz")
    with np.load(tmp_path / "inputs.npz") as data:
        told = json.dumps({name: str(data[name].dtype) for name in data.files})
    assert "<U" not in told and "|S" not in told


def vectors(n: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """Unit vectors around a direction, as sentences of one field have."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(n, 64)) * np.linspace(2, 0.1, 64) + 1.0
    raw[:, 0] += shift
    unit: np.ndarray = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_vectors_of_the_same_are_no_drift_and_others_are() -> None:
    raised = found = 0
    for seed in range(12):
        reference = Inputs.of(prompts(300, seed), vectors(300, seed))
        for shift in (0.0, 3.0):
            drift = VectorDrift(reference)
            for vector in vectors(300, seed + 100, shift):
                drift.add(vector)
            beyond = drift.reading().statistic > drift.reading().limit
            raised, found = raised + (beyond and shift == 0), found + (beyond and shift > 0)
    assert raised == 0 and found == 12
    assert VectorDrift(reference).reading().n == 0


def test_round_trip_and_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npz"
    made = Inputs.of(prompts(100, 1), vectors(100, 1))
    made.save(path)
    again = Inputs.load(path)
    assert again.size == 100 and again.means.shape == (len(FEATURES),) and again.words.tolist() == made.words.tolist()
    assert again.vector_mean == pytest.approx(made.vector_mean, rel=1e-6)
    assert (again.vector_variance, again.vector_dimensions) == (made.vector_variance, made.vector_dimensions)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"inputs\.npz: cannot be read"):
        Inputs.load(path)
    np.savez(path, format=np.array(1), means=np.zeros(3), sds=np.zeros(3))
    with pytest.raises(ConfigError, match=r"inputs\.npz: cannot be read .*3"):
        Inputs.load(path)
    with pytest.raises(ConfigError, match="two queries"):
        Inputs.of(prompts(1, 0))


def test_unknown_words() -> None:
    known = {word_hash("a"), word_hash("b")}
    assert unknown_share([word_hash(w) for w in "abcd"], known) == 0.5
    assert unknown_share([], known) == 0.0 and word_hash("\ud800") >= 0


def test_odd_texts_are_read() -> None:
    drift = InputDrift(Inputs.of(prompts(100, 1)))
    for text in ("", "\ud800", "🙂" * 100, "9" * 10_000):
        drift.add(Query((Message("user", text),)))
    assert np.isfinite(drift.reading().statistic)
