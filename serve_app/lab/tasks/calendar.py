"""Weekdays and months, counted forwards and backwards."""

from collections.abc import Mapping
from random import Random
from typing import ClassVar

from serve_app.lab.tasks.base import Task

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)

_NEXT = (
    *("what day comes after {d}?", "which day follows {d}?", "what day is after {d}?", "the day after {d}"),
    *("if today is {d}, what day is tomorrow?", "what is the day after {d}?", "which day comes after {d}?"),
    *("what day follows {d}?", "what comes after {d}?", "which day is after {d}?", "day after {d}"),
)
_PREVIOUS = (
    *("what day comes before {d}?", "which day precedes {d}?", "what day is before {d}?", "the day before {d}"),
    *("if today is {d}, what day was yesterday?", "what is the day before {d}?", "which day comes before {d}?"),
    *("what comes before {d}?", "which day is before {d}?", "day before {d}"),
)
_NEXT_MONTH = (
    *("what month comes after {d}?", "which month follows {d}?", "the month after {d}", "what comes after {d}?"),
    *("which month comes after {d}?", "what is the month after {d}?"),
)
_PREVIOUS_MONTH = (
    *("what month comes before {d}?", "which month is before {d}?", "the month before {d}", "what comes before {d}?"),
    *("which month comes before {d}?", "what is the month before {d}?"),
)
_DAYS_AFTER = (
    *("what day is {n} days after {d}?", "if today is {d}, what day is it in {n} days?", "{n} days after {d}"),
    *(
        "which day is {n} days after {d}?",
        "today is {d}, what day is it in {n} days?",
        "what day is {d} plus {n} days?",
    ),
    *("what day comes {n} days after {d}?", "if it is {d}, what day is it in {n} days?"),
    *("what day is {n} days from {d}?", "{n} days from {d}", "{n} days after {d} is"),
)
_DAYS_BEFORE = (
    *("what day is {n} days before {d}?", "if today is {d}, what day was it {n} days ago?", "{n} days before {d}"),
    *("which day is {n} days before {d}?", "what day was {n} days before {d}?"),
    *("what day comes {n} days before {d}?", "{n} days before {d} is", "today is {d}, what day was it {n} days ago?"),
)
_MONTHS_AFTER = (
    *("what month is {n} months after {d}?", "{n} months after {d}", "which month is {n} months after {d}?"),
    *("what month comes {n} months after {d}?", "if it is {d}, what month is it in {n} months?"),
    *("what month is {n} months from {d}?", "{n} months from {d}", "{n} months after {d} is"),
)
_MONTHS_BEFORE = (
    *("what month is {n} months before {d}?", "{n} months before {d}", "which month is {n} months before {d}?"),
    *("what month was {n} months before {d}?", "if it is {d}, what month was it {n} months ago?"),
    *("what month comes {n} months before {d}?", "{n} months before {d} is", "what month is it {n} months before {d}?"),
)

_KINDS = {
    "next or previous": (1, (1, 1)),
    "2 to 6 days on": (2, (2, 6)),
    "2 to 6 months on": (3, (2, 6)),
    "7 to 20 days on": (4, (7, 20)),
    "2 to 14 days back": (5, (2, 14)),
    "7 to 11 months on": (4, (7, 11)),
    "2 to 11 months back": (5, (2, 11)),
}
"""Difficulty and bounds (inclusive) of the distance, by size."""


class Calendar(Task):
    """`what day is 3 days after monday?` gives thursday."""

    name = "calendar"
    small = True
    sizes: ClassVar[Mapping[str, int]] = {size: level for size, (level, _) in _KINDS.items()}

    def compose(self, rng: Random, size: str) -> tuple[str, str]:
        """Neighbouring days and months, then distances on and back."""
        distance = rng.randint(*_KINDS[size][1])
        if size == "next or previous":
            forward = rng.random() < 0.5
            if rng.random() < 0.7:
                return _walk(rng, WEEKDAYS, _NEXT if forward else _PREVIOUS, 1 if forward else -1)
            return _walk(rng, MONTHS, _NEXT_MONTH if forward else _PREVIOUS_MONTH, 1 if forward else -1)
        back = size.endswith("back")
        if "days" in size:
            return _walk(rng, WEEKDAYS, _DAYS_BEFORE if back else _DAYS_AFTER, -distance if back else distance)
        return _walk(rng, MONTHS, _MONTHS_BEFORE if back else _MONTHS_AFTER, -distance if back else distance)


def _walk(rng: Random, names: tuple[str, ...], phrases: tuple[str, ...], offset: int) -> tuple[str, str]:
    start = rng.randrange(len(names))
    prompt = rng.choice(phrases).format(d=names[start], n=abs(offset))
    return prompt, names[(start + offset) % len(names)]
