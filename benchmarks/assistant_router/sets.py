"""The questions, what counts as a right answer to each, and whether the strong model was recorded to be right.

Everyday questions are this package's own (`everyday.txt`). Of the strong model no answer to them was recorded: it is
counted right on all of them, the assumption that favors the large model most. All other sets are recorded answers.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from serve_app.errors import DataError
from serve_app.grading.exact import Choice, last_number, normalise
from serve_app.grading.normalizers import boxed, literal

STRONG = "llama-3.1-70b-instruct"
_LETTERS = "ABCDEFGHIJ"
_CHOICE = Choice(_LETTERS)
_WHOLE_ANSWER_CHARS = 4_000


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `right` grades an answer; `strong` is the strong model's recorded quality, `strong_tokens` its
    answer's length; `max_tokens` bounds the weak model's answer; `choices` is the number of options, 0 without any."""

    id: str
    set: str
    group: str
    text: str
    references: tuple[str, ...]
    kind: str
    strong: float
    strong_tokens: float
    max_tokens: int
    choices: int = 0

    def right(self, answer: str) -> bool:
        """Whether a whole answer is right."""
        return GRADERS[self.kind](answer[:_WHOLE_ANSWER_CHARS], self.references)


def _words(answer: str, references: Sequence[str]) -> bool:
    """The answer has a reference in it, word for word."""
    said = f" {normalise(answer)} "
    return any(f" {normalise(r)} " in said for r in references)


def _symbol(answer: str, references: Sequence[str]) -> bool:
    """The same, with the case counted: a chemical symbol, a letter."""
    return any(re.search(rf"(?<![A-Za-z]){re.escape(r)}(?![A-Za-z])", answer) for r in references)


def _first(answer: str, references: Sequence[str]) -> bool:
    """The first of the words that may be an answer: yes or no, positive or negative, or that it is liked or not."""
    found = re.search(r"\b(yes|no|positive|negative|not like|dislikes?|likes?|liked)\b", answer.lower())
    return found is not None and _SAYS.get(found[1], found[1]) in references


def _number(answer: str, references: Sequence[str]) -> bool:
    said = last_number(answer)
    return said is not None and any(said == last_number(r) for r in references)


def _letter(answer: str, references: Sequence[str]) -> bool:
    return _CHOICE.letter(answer) in references


def _math(answer: str, references: Sequence[str]) -> bool:
    plain = re.sub(r"\\[!,;:\s]|\\text\{[^}]*\}|\$", "", boxed(answer).replace("dfrac", "frac"))
    return any(plain == "".join(r.replace("dfrac", "frac").replace("$", "").split()) for r in references)


def _value(answer: str, references: Sequence[str]) -> bool:
    """A Python literal: after the last `==`, or the whole answer."""
    said = answer.replace("[/ANSWER]", "").rsplit("==", 1)[-1].strip().strip("`").strip()
    return any(literal(said) == literal(r) for r in references)


_SAYS = {"not like": "negative", "dislike": "negative", "dislikes": "negative"}
_SAYS |= dict.fromkeys(("like", "likes", "liked"), "positive")
GRADERS: Mapping[str, Callable[[str, Sequence[str]], bool]] = {
    "words": _words,
    "symbol": _symbol,
    "first": _first,
    "number": _number,
    "letter": _letter,
    "math": _math,
    "value": _value,
}
_EVERYDAY_KINDS = {
    "chemistry": "symbol",
    "yes or no": "first",
    "sentiment": "first",
    "arithmetic": "number",
}
_LIMITS = {"everyday": 40, "gsm": 160, "math_l5": 160, "crux": 48, "mmlu_pro": 32, "trivia": 32, "mmlu": 32}
TRAINED = ("everyday", "gsm", "math_l5", "crux", "mmlu_pro")
"""Sets of open licences, which the router that ships learns from; the others test it only."""
SAMPLES = {"everyday": 10_000, "gsm": 80, "math_l5": 30, "crux": 30, "mmlu_pro": 180, "trivia": 120, "mmlu": 80}


def questions(data: Path, seed: int = 0) -> list[Question]:
    """A sample of every set, in an order that mixes them. Raises DataError for a missing file."""
    multi, chains = data / "multi", data / "cascade"
    sets = [
        list(everyday()),
        _zeroeval(multi / "zeroeval_gsm.jsonl.gz", "gsm", "number", "Meta-Llama-3.1-70B-Instruct"),
        _zeroeval(multi / "zeroeval_math_l5.jsonl.gz", "math_l5", "math", "Meta-Llama-3.1-70B-Instruct"),
        _zeroeval(multi / "zeroeval_crux.jsonl.gz", "crux", "value", "Meta-Llama-3.1-70B-Instruct"),
        _mmlu_pro(multi / "mmlu_pro.jsonl.gz", "Meta-Llama-3_1-70B-Instruct"),
        _trivia(chains / "triviaqa_chain.jsonl.gz", "llama3.1-70b"),
        _mmlu(chains / "mmlu_chain.jsonl.gz", "llama3.1-70b"),
    ]
    rng = Random(f"assistant-router-{seed}")
    found = [q for of in sets for q in rng.sample(of, min(len(of), SAMPLES[of[0].set]))]
    rng.shuffle(found)
    return found


def everyday() -> Iterator[Question]:
    """The package's own questions, each with the answers that are right."""
    lines = (Path(__file__).parent / "everyday.txt").read_text("utf-8").splitlines()
    for i, line in enumerate(lines):
        family, text, right = line.split(" | ")
        references = tuple(right.split("/"))
        kind = _EVERYDAY_KINDS.get(family, "words")
        yield Question(f"everyday-{i}", "everyday", family, text, references, kind, 1.0, 24.0, _LIMITS["everyday"])


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]
    except OSError as e:
        raise DataError(f"{path}: {e}; --data is the folder of the recorded answers") from e


def _zeroeval(path: Path, name: str, kind: str, model: str) -> list[Question]:
    return [
        Question(
            row["id"],
            name,
            name,
            row["prompt"],
            (str(row["answer"]),),
            kind,
            float(row["models"][model][1]),
            row["models"][model][2] / 4,
            _LIMITS[name],
        )
        for row in _rows(path)
        if model in row["models"]
    ]


def _with_options(question: str, options: Sequence[str]) -> str:
    lines = [f"{letter}. {option}" for letter, option in zip(_LETTERS, options, strict=False)]
    return "\n".join([question, *lines, "Answer with the letter."])


def _mmlu_pro(path: Path, model: str) -> list[Question]:
    return [
        Question(
            row["id"],
            "mmlu_pro",
            f"mmlu_pro:{row['category']}",
            _with_options(row["prompt"], row["options"]),
            (row["answer"],),
            "letter",
            float(row["models"][model][1]),
            row["models"][model][2] / 4,
            _LIMITS["mmlu_pro"],
            len(row["options"]),
        )
        for row in _rows(path)
        if model in row["models"]
    ]


def _chain(path: Path, model: str) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Prompt, the model's entry, and the answers that were counted right; rows that no model answered are left out."""
    for row in _rows(path):
        right = tuple({str(m["ans"]).strip() for m in row["m"].values() if m["ok"]})
        if right:
            yield row["prompt"], row["m"][model], right


def _trivia(path: Path, model: str) -> list[Question]:
    found = []
    for i, (prompt, entry, right) in enumerate(_chain(path, model)):
        text = prompt.split("Question: ", 1)[1].rsplit("\n\nAnswer:", 1)[0].strip()
        references = tuple(r for r in right if normalise(r))
        if references:
            values = float(entry["ok"]), float(entry["tout"])
            found.append(
                Question(f"trivia-{i}", "trivia", "trivia", text, references, "words", *values, _LIMITS["trivia"])
            )
    return found


def _mmlu(path: Path, model: str) -> list[Question]:
    found = []
    for i, (prompt, entry, right) in enumerate(_chain(path, model)):
        body = prompt.split("Question: ", 1)[1].rsplit("\n\nAnswer:", 1)[0]
        text = body.replace("\n\nChoices:\n", "\n") + "\nAnswer with the letter."
        letters = tuple({letter for r in right if (letter := _CHOICE.letter(r))})
        if len(letters) == 1:
            values = float(entry["ok"]), float(entry["tout"])
            found.append(Question(f"mmlu-{i}", "mmlu", "mmlu", text, letters, "letter", *values, _LIMITS["mmlu"], 4))
    return found
