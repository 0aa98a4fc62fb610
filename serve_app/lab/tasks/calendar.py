"""Weekdays and months, counted forwards and backwards."""

from random import Random

from serve_app.lab.tasks.base import Task

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)

_NEXT = (
    "what day comes after {d}?",
    "which day follows {d}?",
    "what day is after {d}?",
    "the day after {d}",
    "if today is {d}, what day is tomorrow?",
)
_PREVIOUS = (
    "what day comes before {d}?",
    "which day precedes {d}?",
    "what day is before {d}?",
    "the day before {d}",
    "if today is {d}, what day was yesterday?",
)
_DAYS_AFTER = ("what day is {n} days after {d}?", "if today is {d}, what day is it in {n} days?", "{n} days after {d}")
_DAYS_BEFORE = (
    "what day is {n} days before {d}?",
    "if today is {d}, what day was it {n} days ago?",
    "{n} days before {d}",
)
_MONTHS_AFTER = ("what month is {n} months after {d}?", "{n} months after {d}")
_MONTHS_BEFORE = ("what month is {n} months before {d}?", "{n} months before {d}")


class Calendar(Task):
    """`what day is 3 days after monday?` gives thursday."""

    name = "calendar"
    small = True

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Neighbouring days, then a few days, months, weeks and both ways."""
        if difficulty == 1:
            forward = rng.random() < 0.5
            return _walk(rng, WEEKDAYS, _NEXT if forward else _PREVIOUS, 1 if forward else -1)
        if difficulty == 2:
            return _walk(rng, WEEKDAYS, _DAYS_AFTER, rng.randint(2, 6))
        if difficulty == 3:
            return _walk(rng, MONTHS, _MONTHS_AFTER, rng.randint(2, 6))
        if difficulty == 4:
            return _walk(rng, WEEKDAYS, _DAYS_AFTER, rng.randint(7, 20))
        if rng.random() < 0.5:
            return _walk(rng, WEEKDAYS, _DAYS_BEFORE, -rng.randint(2, 14))
        return _walk(rng, MONTHS, _MONTHS_BEFORE, -rng.randint(2, 11))


def _walk(rng: Random, names: tuple[str, ...], phrases: tuple[str, ...], offset: int) -> tuple[str, str]:
    start = rng.randrange(len(names))
    prompt = rng.choice(phrases).format(d=names[start], n=abs(offset))
    return prompt, names[(start + offset) % len(names)]
