"""Independent answers to lab queries: reads the prompt's text alone, by other means than the tasks."""

from __future__ import annotations

import re
from datetime import date, timedelta

_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_MONTHS = [date(2001, month, 1).strftime("%B").lower() for month in range(1, 13)]

_SIZES = {
    "mm": 1,
    "cm": 10,
    "m": 1000,
    "km": 1_000_000,
    **{"millimeters": 1, "centimeters": 10, "meters": 1000, "kilometers": 1_000_000, "grams": 1, "kilograms": 1000},
    "inches": 1,
    "feet": 12,
    "g": 1,
    "kg": 1000,
    "pieces": 1,
    "dozen": 12,
    "months": 1,
    "years": 12,
    "seconds": 1,
    "minutes": 60,
    "hours": 3600,
    "days": 86_400,
    "weeks": 604_800,
    **{"week": 604_800, "foot": 12, "year": 12, "hour": 3600, "minute": 60, "day": 86_400},
}
"""Each unit in the smallest unit of its kind."""


_OPENING = re.compile(
    r"^(please|tell me:?|(quick )?question:|answer this:|i want to know:|hello,|hi!|hey,|now|so,|ok,|q:|can you) "
)


def answer_of(task: str, prompt: str) -> str:
    """The right answer to a prompt of the named task."""
    bare = re.sub(r",? please$", "", _OPENING.sub("", prompt)).removesuffix(".")
    return _ORACLES[task](bare.replace("what's", "what is"))


def _integers(prompt: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", prompt)]


def _add(prompt: str) -> str:
    return str(sum(_integers(prompt)))


def _subtract(prompt: str) -> str:
    first, second = _integers(prompt)
    turned = re.search(r"from|take \d+ away|less than", prompt)
    return str(second - first if turned else first - second)


def _multiply(prompt: str) -> str:
    first, second = _integers(prompt)
    return str(sum([first] * second))


def _expression(prompt: str) -> str:
    text = max(re.findall(r"[\d+*x() -]+", prompt), key=len).replace("x", "*")
    return str(eval(text))


def _sort(prompt: str) -> str:
    numbers = _integers(prompt)
    ordered = []
    while numbers:
        least = min(numbers)
        numbers.remove(least)
        ordered.append(str(least))
    if "descending" in prompt or re.search("(large|largest|highest) to", prompt):
        ordered = ordered[::-1]
    return " ".join(ordered)


def _largest(prompt: str) -> str:
    numbers = sorted(_integers(prompt))
    return str(numbers[0] if re.search("small|low|less|minimum", prompt) else numbers[-1])


_REVERSALS = (
    r"(?:reverse|spell|write|say|turn)(?: the (?:word|string|letters (?:of|in))| this(?: word)?)? ?:? ?['\"]?"
    r"((?!backwards|reversed)[a-z]+)['\"]?(?: backwards| around| in reverse)?",
    r"(?:what is|how do you spell) ([a-z]+) (?:in reverse|spelled backwards|backwards|reversed)\??",
    r"(?:what is )?the reverse of ([a-z]+)\??",
    r"([a-z]+) (?:backwards|reversed|in reverse)",
)


def _reverse(prompt: str) -> str:
    word = next(found[1] for pattern in _REVERSALS if (found := re.fullmatch(pattern, prompt)))
    return "".join(reversed(word))


def _count(prompt: str) -> str:
    prompt = re.sub(r" (have|appear in|occur in)\??( |$)", r" ", prompt).strip()
    *words, word = prompt.rstrip("?").split()
    if "vowels" in words:
        return str(len(re.findall("[aeiou]", word)))
    whole = "letters" in words[:3] and not re.search("letters [a-z] in ", prompt)
    if whole or "long" in words or "length" in words:
        return str(len(word))
    letter = next(
        w[0] for w in words if re.fullmatch("[a-z]('?s)?", w) and not (w == "is" and {"times", "often"} & set(words))
    )
    return str(len(word.split(letter)) - 1)


def _calendar(prompt: str) -> str:
    words = re.findall(r"[a-z]+", prompt)
    distance = (_integers(prompt) or [1])[0]
    if any(word in ("before", "ago", "precedes", "yesterday") for word in words):
        distance = -distance
    month = next((word for word in words if word in _MONTHS), None)
    if month is not None:
        return _MONTHS[(_MONTHS.index(month) + distance) % 12]
    day = next(word for word in words if word in _DAYS)
    monday = date(2024, 1, 1)
    return (monday + timedelta(days=_DAYS.index(day) + distance)).strftime("%A").lower()


def _units(prompt: str) -> str:
    amounts = re.findall(r"(\d+) ([a-z]+)", prompt)
    asked = re.search(r"how many ([a-z]+)|(?:to|into|in|= \?) ([a-z]+)\??$", prompt)
    assert asked is not None
    unit = asked.group(1) or asked.group(2)
    return str(sum(int(amount) * _SIZES[name] for amount, name in amounts) // _SIZES[unit])


def _roman(prompt: str) -> str:
    if numbers := _integers(prompt):
        return next(text for text in _numerals() if _value(text) == numbers[0])
    numeral = next(word for word in re.findall("[a-z]+", prompt) if re.fullmatch("[ivxlc]+", word))
    return str(_value(numeral))


def _numerals() -> list[str]:
    ones = ["", "i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix"]
    tens = ["", "x", "xx", "xxx", "xl", "l", "lx", "lxx", "lxxx", "xc"]
    return [c + x + i for c in ("", "c", "cc", "ccc") for x in tens for i in ones]


def _value(numeral: str) -> int:
    signs = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[sign] for sign in numeral]
    return sum(-a if a < b else a for a, b in zip(signs, [*signs, 0][1:], strict=True))


def _lookup(prompt: str) -> str:
    people = re.findall(r"([a-z]+) has (\d+) ([a-z]+)", prompt)
    if not people:
        values = dict(re.findall(r"\b([a-z])(?: is | = |=)(\d+)", prompt))
        return values[re.findall(r"\b[a-z]\b", re.sub(r"[^a-z]", " ", prompt))[-1]]
    asked = re.search(r"\bhow .*$", prompt)[0].rstrip("?").split()
    return next(amount for name, amount, _ in people if name in asked)


def _steps(prompt: str) -> str:
    value = _integers(prompt)[0]
    for step in re.findall(r"add \d+|subtract \d+|double it", prompt):
        if step == "double it":
            value += value
        else:
            value += _integers(step)[0] * (1 if step.startswith("add") else -1)
    return str(value)


def _other(prompt: str) -> str:
    return "i only know small tasks"


_ORACLES = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "expression": _expression,
    "sort": _sort,
    "largest": _largest,
    "reverse": _reverse,
    "count": _count,
    "calendar": _calendar,
    "units": _units,
    "roman": _roman,
    "lookup": _lookup,
    "steps": _steps,
    "other": _other,
}
