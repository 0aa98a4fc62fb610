"""What the fake models answer: the caller's prompt sets the pace and max_tokens the length.

The fake engine in our pool replicas and the fake upstream of the peers follow the same script.
"""

import re

TOKEN = " token"
"""The text of every token."""
PROMPT_TOKENS = 12
"""Said in the usage of every answer; nothing is counted."""
_PACE = re.compile(r"\[pace (\d+) ms\]")


def prompt(pace_ms: int = 0) -> str:
    """A query as a caller would write it, with the pace of the answer if there is one."""
    text = "What is 12 + 30? Give the bare result."
    return f"{text} [pace {pace_ms} ms]" if pace_ms else text


def pace_s(text: str) -> float:
    """Seconds between tokens that the prompt requests; 0 means as fast as they can be sent."""
    found = _PACE.search(text)
    return int(found[1]) / 1e3 if found else 0.0
