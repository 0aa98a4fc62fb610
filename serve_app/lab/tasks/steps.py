"""A few steps in a row: a running number that is added to, taken from and doubled."""

from __future__ import annotations

from random import Random

from serve_app.lab.tasks.base import Task

_SHAPES = {1: (2, 9, False), 2: (2, 9, True), 3: (3, 9, False), 4: (3, 9, True), 5: (3, 50, True)}
"""(how many steps, the largest start, whether the number is doubled once), by difficulty."""

_FRAMES = (
    ("start with {x}, {s}", ", "),
    ("take {x}, {s}", ", then "),
    ("take {x}. {s}. what is it?", ". "),
    ("start with {x}. {s}.", ". "),
)


class Steps(Task):
    """`take 5, add 3, then double it` gives 16; the running number never falls below zero."""

    name = "steps"

    def compose(self, rng: Random, difficulty: int) -> tuple[str, str]:
        """Two or three steps from a start of one or two digits."""
        count, top, doubling = _SHAPES[difficulty]
        start = rng.randint(10 if top > 9 else 1, top)
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
