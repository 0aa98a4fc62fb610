""""""

import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from serve_app.errors import ConfigError, DataError, DependencyError
from serve_app.grading import bartscore as seq2seq
from serve_app.grading import get_metric
from serve_app.grading.bartscore import Seq2SeqLikelihood
from tests.grading.rows import dataset
from tests.grading.seq2seq import WORDS, save_bart, save_t5, save_tokenizer

BART = {word: i + 4 for i, word in enumerate(WORDS)}
T5 = {word: i + 3 for i, word in enumerate(WORDS)}
PAIRS = [
    ("the cat sat on the mat", "the dog ran"),
    ("the dog", "the red cat ran far away on the road"),
    ("far away", ""),
    ("", "big mat"),
    ("the cat sat on the mat", "the dog ran far"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"bart": save_bart(root / "bart"), "t5": save_t5(root / "t5")}


def ids_by_hand(kind: str, text: str) -> list[int]:
    """Ids as the models' papers have them: `<s> words </s>` for BART, `words </s>` for T5."""
    if kind == "bart":
        return [0, *(BART[word] for word in text.split()), 2]
    return [*(T5[word] for word in text.split()), 1]


def by_hand(folder, kind: str, source: str, target: str) -> float:
    """The definition, token by token: each is predicted from the source and from the tokens before it.

    One pair at a time and no padding; the decoder is given its start token and then the target so far.
    """
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    read = torch.tensor([ids_by_hand(kind, source)])
    start = {"bart": 2, "t5": 0}[kind]
    written, total = [start], 0.0
    target_ids = ids_by_hand(kind, target)
    for token in target_ids:
        with torch.no_grad():
            logits = model(input_ids=read, decoder_input_ids=torch.tensor([written])).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), dim=0)[token])
        written.append(token)
    return total / len(target_ids)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_it_is_its_definition(folders, kind):
    expected = [by_hand(folders[kind], kind, *pair) for pair in PAIRS]
    assert len({round(value, 3) for value in expected}) == len(PAIRS), "the model must tell the pairs apart"
    assert Seq2SeqLikelihood(folders[kind]).mean_log_probability(PAIRS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_what_shares_a_batch_changes_nothing(folders, kind, monkeypatch):
    alone = Seq2SeqLikelihood(folders[kind], batch_size=1).mean_log_probability(PAIRS)
    for size in (2, 3, 16):
        together = Seq2SeqLikelihood(folders[kind], batch_size=size)
        assert together.mean_log_probability(PAIRS) == pytest.approx(alone, abs=1e-5)
        assert together.mean_log_probability(PAIRS[::-1]) == pytest.approx(alone[::-1], abs=1e-5)
    monkeypatch.setattr(seq2seq, "_TARGET_TOKENS", 12)
    assert Seq2SeqLikelihood(folders[kind]).mean_log_probability(PAIRS) == pytest.approx(alone, abs=1e-5)


def test_batches_hold_their_bounds(folders, monkeypatch):
    monkeypatch.setattr(seq2seq, "_TARGET_TOKENS", 12)
    likelihood = Seq2SeqLikelihood(folders["bart"], batch_size=4)
    targets = [[0] * length for length in (3, 20, 2, 2, 5, 2, 2, 2, 6, 6)]
    batches = list(likelihood._batches([[0]] * len(targets), targets))
    assert sorted(i for rows in batches for i in rows) == list(range(len(targets)))
    for rows in batches:
        assert len(rows) <= 4 and (len(rows) == 1 or len(rows) * max(len(targets[i]) for i in rows) <= 12)


def test_equal_pairs_are_computed_once(folders, monkeypatch):
    likelihood = Seq2SeqLikelihood(folders["t5"], batch_size=1)
    asked = []
    forward = likelihood._forward
    monkeypatch.setattr(likelihood, "_forward", lambda s, t: asked.append(len(s)) or forward(s, t))
    values = likelihood.mean_log_probability([PAIRS[0], PAIRS[1], PAIRS[0]])
    assert values[0] == values[2] != values[1] and asked == [1, 1]


@pytest.mark.parametrize(("kind", "most"), [("bart", 24), ("t5", 6)])
def test_long_texts_lose_their_end_and_are_counted(folders, kind, most):
    words = " ".join(WORDS[i % len(WORDS)] for i in range(40))
    around = len(ids_by_hand(kind, ""))
    kept = " ".join(words.split()[: most - around])
    likelihood = Seq2SeqLikelihood(folders[kind], max_tokens=most if kind == "t5" else 1024)
    cut = likelihood.mean_log_probability([(words, "cat"), ("cat", words), ("cat", kept)])
    assert likelihood.truncated == 1, "one text, on both sides; one that just fits is not cut"
    fitting = [(kept, "cat"), ("cat", kept), ("cat", kept)]
    assert cut == pytest.approx([by_hand(folders[kind], kind, *pair) for pair in fitting], abs=1e-5)


@pytest.mark.parametrize("kind", ["bart", "t5"])
async def test_the_four_directions(folders, kind):
    rows = dataset(
        {"small": [["the dog ran", "the cat sat"]], "large": [["big mat", ""]]}, ["the cat sat"], prompts=["red road"]
    )
    hypotheses = ["the dog ran", "the cat sat", "big mat", ""]
    likelihood = Seq2SeqLikelihood(folders[kind])
    expected = {
        "faithfulness": likelihood.mean_log_probability([("red road", h) for h in hypotheses]),
        "precision": likelihood.mean_log_probability([("the cat sat", h) for h in hypotheses]),
        "recall": likelihood.mean_log_probability([(h, "the cat sat") for h in hypotheses]),
    }
    expected["f"] = [(p + r) / 2 for p, r in zip(expected["precision"], expected["recall"], strict=True)]
    for direction, values in expected.items():
        after = await get_metric("bartscore", model=folders[kind], direction=direction).score(rows)
        assert after.weak.quality[0].tolist() == pytest.approx(values[:2], abs=1e-5)
        assert after.strong.quality[0].tolist() == pytest.approx(values[2:], abs=1e-5)
        assert after.about["quality_range"] == [None, 0.0] and after.about["metric_told"] == {}
        assert after.about["metric_options"] == {"model": kind, "direction": direction, "max_tokens": 1024}
        assert (np.concatenate([after.weak.quality, after.strong.quality]) < 0).all()


async def test_only_faithfulness_needs_no_reference(folders):
    rows = dataset({"small": [["cat"], ["dog"]]}, ["cat", None])
    for direction in ("precision", "recall", "f"):
        with pytest.raises(DataError, match=r"'r1' .*reference"):
            await get_metric("bartscore", model=folders["t5"], direction=direction).score(rows)
    after = await get_metric("bartscore", model=folders["t5"], direction="faithfulness").score(rows)
    assert np.isfinite(after.weak.quality).all()


async def test_cut_texts_and_progress_are_told(folders, monkeypatch):
    monkeypatch.setattr(seq2seq, "_REPORTED_EVERY", 2)
    lines = []
    rows = dataset({"small": [["cat"], ["dog " * 9], ["the dog"], ["mat"]]}, ["cat"] * 4)
    metric = get_metric("bartscore", model=folders["t5"], direction="precision", batch_size=1, max_tokens=5)
    after = await metric.score(rows, lines.append)
    assert lines == [
        "bartscore: 2 of 4 texts scored",
        "bartscore: 4 of 4 texts scored",
        "bartscore: 1 texts are longer than the model reads, and lost their end",
    ]
    assert after.about["metric_told"] == {"truncated": 1}


async def test_no_rows_are_no_fault(folders):
    rows = dataset({"small": [["cat"]]}, ["cat"]).take([])
    assert (await get_metric("bartscore", model=folders["t5"]).score(rows)).weak.quality.shape == (0, 1)


def test_a_target_without_a_token_has_no_mean(folders, tmp_path):
    folder = save_t5(tmp_path / "bare")
    save_tokenizer(folder, ("<pad>", "</s>", "<unk>"), None)
    with pytest.raises(DataError, match="no token"):
        Seq2SeqLikelihood(folder).mean_log_probability([("cat", "")])


def test_folders_that_hold_no_such_model(folders, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere: .*config\.json"):
        get_metric("bartscore", model=tmp_path / "nowhere")
    config = AutoConfig.for_model("gpt2", n_layer=1, n_head=1, n_embd=8, vocab_size=20)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ConfigError, match="gpt2"):
        get_metric("bartscore", model=tmp_path / "gpt2")
    for wrong in ({"direction": "both"}, {"batch_size": 0}, {"max_tokens": 0}):
        with pytest.raises(ConfigError):
            get_metric("bartscore", model=folders["t5"], **wrong)


def test_weights_other_than_safetensors_are_not_read(tmp_path):
    folder = save_t5(tmp_path / "t5")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        get_metric("bartscore", model=folder)


def test_models_that_would_guess_or_break_are_refused(folders, tmp_path):
    folder = save_bart(tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if "decoder.layers.1.fc1.weight" not in name}
    assert len(lacking) == len(weights) - 1
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"decoder\.layers\.1\.fc1\.weight"):
        get_metric("bartscore", model=folder)
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ConfigError, match="loaded"):
        get_metric("bartscore", model=folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="loaded"):
        get_metric("bartscore", model=folder)
    with pytest.raises(ConfigError, match="loaded"):
        get_metric("bartscore", model=folders["t5"], device="nowhere")


def test_without_the_libraries_the_mend_is_told(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match=r'pip install "jethro\[train\]"'):
        get_metric("bartscore", model=folders["t5"])
