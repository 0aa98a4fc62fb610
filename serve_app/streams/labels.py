"""The LLM's prompt for a label, and the label that its answer names.

An answer that names none, or more than one, parses to no label: nothing is learned from it.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from serve_app.streams.online.base import StreamSpec
from serve_app.types import Message, Query, Sampling

_WORD = re.compile(r"\w+")
_NEGATIONS: Final = frozenset(("not", "no", "non", "never", "neither", "nor", "isn", "without"))
"""A label right after one of these is not what the answer says."""
_SPARE_TOKENS: Final = 8
"""In addition to the longest label: a quote, a full stop, the end."""
_JSON_TOKENS: Final = 16
"""In addition to the longest label, for `{"label": "..."}`."""


def question(spec: StreamSpec, text: str, *, guided: bool) -> Query:
    """The query that asks the LLM for one label; `guided`: the pool can hold the answer to the label set."""
    allowed = ", ".join(spec.labels)
    form = ' as JSON: {"label": "..."}' if guided else " and nothing else"
    system = f"{spec.instruction}\n\nAnswer with exactly one of these labels{form}.\nLabels: {allowed}"
    # a tokenizer may take a byte a token; every other one needs fewer
    longest = max(len(json.dumps(label)) for label in spec.labels)
    return Query(
        (Message("system", system), Message("user", text)),
        Sampling(max_tokens=longest + (_JSON_TOKENS if guided else _SPARE_TOKENS), temperature=0.0),
        response_format=_schema(spec.labels) if guided else None,
    )


def parsed(answer: str, labels: Sequence[str]) -> int | None:
    """The index of the one label that the answer names, or None.

    In this order: the label itself; the value of a JSON answer; the same but for case, punctuation and Unicode form;
    the only label whose words occur in the answer, unless they are negated.
    """
    named = _of_json(answer.strip())
    if named in labels:
        return labels.index(named)
    keys = [normal(label) for label in labels]
    if normal(named) in keys:
        return keys.index(normal(named))
    return _only_named(_folded(named), keys)


def normal(text: str) -> str:
    """Words in lower case, one blank between; text without any word stays as it is, but for its Unicode form."""
    folded = _folded(text)
    return " ".join(_WORD.findall(folded)) or folded


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _of_json(answer: str) -> str:
    if answer[:1] not in ("{", '"'):
        return answer
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return answer
    if isinstance(value, dict):
        value = value.get("label")
    return value if isinstance(value, str) else answer


def _only_named(answer: str, keys: Sequence[str]) -> int | None:
    """Longer labels first, and what they cover is taken out: `not toxic` names no `toxic` where it is a label too."""
    rest, found = answer, None
    for key in sorted(keys, key=len, reverse=True):
        words = r"\W+".join(map(re.escape, key.split()))
        pattern = words if _inside_words(key) else rf"(?<!\w){words}(?!\w)"
        matches = list(re.finditer(pattern, rest))
        if not matches:
            continue
        if found is not None or any(_negated(rest[: m.start()]) for m in matches):
            return None
        found = keys.index(key)
        rest = re.sub(pattern, "\0", rest)
    return found


def _negated(before: str) -> bool:
    """Within the two words before: `not joy`, `no real joy`, `isn't joy`."""
    return not _NEGATIONS.isdisjoint(_WORD.findall(before)[-2:])


def _inside_words(key: str) -> bool:
    """Whether a label may be part of a run of letters: scripts without blanks between words, and signs."""
    return all(unicodedata.category(c) not in ("Ll", "Lu", "Lt", "Nd") for c in key)


def _schema(labels: Sequence[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(labels)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "label", "schema": schema, "strict": True}}
