"""A few steps in a row: a running number that is added to, taken from and doubled."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_SHAPES = {1: (1, False), 2: (2, False), 3: (2, True), 4: (3, False), 5: (3, True)}
"""(how many steps, whether the number is doubled once), by difficulty."""

_FRAMES = (
    ("start with {x}, {s}", ", "),
    ("take {x}, {s}", ", then "),
    ("take {x}. {s}. what is it?", ". "),
    ("start with {x}. {s}.", ". "),
)


class Steps(Task):
    """`take 5, add 3, then double it` gives 16; the running number never falls below zero."""

    name = "steps"
    small = True

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """One to three steps from a start of one digit."""
        count, doubling = _SHAPES[difficulty]
        start = rng.randint(1, 9)
        doubled_at = rng.randrange(count) if doubling else -1
        value, steps = start, []
        for index in range(count):
            if index == doubled_at:
                value *= 2
                steps.append("double it")
                continue
            change = rng.randint(1, 9)
            if change <= value and rng.random() < 0.5:
                value -= change
                steps.append(f"subtract {change}")
            else:
                value += change
                steps.append(f"add {change}")
        frame, joint = rng.choice(_FRAMES)
        return frame.format(x=start, s=joint.join(steps)), str(value)
