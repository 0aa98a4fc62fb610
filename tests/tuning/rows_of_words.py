"""Rows that a random model learns quickly: what a colour is called in another language."""

import json
from pathlib import Path

from serve_app.tuning.rows import TuningRow

WORDS = {"red": "rot", "blue": "blau", "green": "gruen", "white": "weiss"}
ASKED = ("{w}", "say {w}", "{w} please", "what is {w}", "{w} in german", "now {w}", "ok, {w}", "and {w}", "tell me {w}")


def word_rows(times: int = 1) -> list[TuningRow]:
    """36 rows for each of `times`."""
    return [
        TuningRow(({"role": "user", "content": ask.format(w=word) + " again" * n},), answer, f"row {n}")
        for n in range(times)
        for ask in ASKED
        for word, answer in WORDS.items()
    ]


def write(rows: list[TuningRow], path: Path) -> Path:
    """The rows as JSON lines with prompt and completion."""
    lines = [json.dumps({"prompt": row.text, "completion": row.answer}) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
