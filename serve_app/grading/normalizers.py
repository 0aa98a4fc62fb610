"""The forms in which answers are compared: two answers whose form is the same say the same.

`""` is the form of an answer that says nothing, and no vote. A form that cannot be read out of an answer (no number, no
letter) is the answer's text, so that it is still compared with its like.
"""

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping
from typing import Final

from serve_app.errors import ConfigError
from serve_app.grading.exact import Choice, last_number

Normalizer = Callable[[str], str]

_EDGES: Final = " \t\r\n.,;:!?\"'`*"
"""What may surround an answer without meaning; a sign or a bracket has one."""
_LITERAL_CHARS: Final = 2_000
"""A longer text is not read as a literal: its parser is for code, not for essays."""
_CHOICE: Final = Choice("ABCDEFGHIJ")
_BOXED: Final = re.compile(r"\\boxed\s*\{")
_QUOTES: Final = ("'", '"')


def exact(text: str) -> str:
    """As it stands, without white space at the ends."""
    return unicodedata.normalize("NFC", text).strip()


def plain_text(text: str) -> str:
    """Composed, lower case, single spaces, no punctuation at the ends ("-5" and "5" stay different)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_EDGES)


def number(text: str) -> str:
    """The last number by value ("$70,000" and "70000.0" are one), see `grading.exact.last_number`."""
    found = last_number(text)
    return plain_text(text) if found is None else f"{found.normalize():f}"


def choice(text: str) -> str:
    """The letter chosen out of A to J, see `grading.exact.Choice`."""
    return _CHOICE.letter(text) or plain_text(text)


def literal(text: str) -> str:
    """The value of a Python literal, so that its spelling does not count: 'a', "a" and a bare a are one string."""
    said = text.strip().strip("`").strip()
    if not said:
        return ""
    if len(said) <= _LITERAL_CHARS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return repr(ast.literal_eval(said))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            pass
    inside = said[1:-1] if len(said) > 1 and said[0] == said[-1] and said[0] in _QUOTES else said
    return repr(inside)


def last_line(text: str) -> str:
    """The last line that says something, as `text`."""
    lines = [found for line in text.splitlines() if (found := plain_text(line))]
    return lines[-1] if lines else ""


def boxed(text: str) -> str:
    r"""What the last `\boxed{...}` holds, without spaces; the last line where there is none."""
    marks = list(_BOXED.finditer(text))
    if not marks:
        return last_line(text)
    depth, start = 1, marks[-1].end()
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return "".join(text[start:at].split())
    return "".join(text[start:].split())


NORMALIZERS: Final[Mapping[str, Normalizer]] = {
    "exact": exact,
    "text": plain_text,
    "choice": choice,
    "number": number,
    "literal": literal,
    "last_line": last_line,
    "boxed": boxed,
}
"""By the name that plans have; of forms that fit equally well the first is chosen."""


def normalizer(name: str, where: str = "normalizer") -> Normalizer:
    """The form of that name. Raises ConfigError naming `where` and the forms that there are."""
    if name not in NORMALIZERS:
        raise ConfigError(f"{where}: {name!r} is no form of answers; give one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]
