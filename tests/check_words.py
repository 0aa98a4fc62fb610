"""Find home-made words where the field has its own: `python tests/check_words.py [PATH ...]`.

Reads names, docstrings, comments and messages of Python files, and every line of text files (Markdown, YAML, HTML, the
Makefile). Prints one line per finding, `file:line: 'found': write ...`, then the number of findings per folder. Exits
with 1 if there are any. A string that is one lower-case identifier is a key of a format and is not read.
"""

import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
PLACES: Final = ("serve_app", "benchmarks", "docs", "deploy", "k8s", "README.md", "Makefile")
TEXT: Final = frozenset({".md", ".yaml", ".yml", ".html", ".jinja", ".txt", ".toml", ""})
DATA: Final = frozenset({"everyday.txt"})
"""Text that a model is trained on, in people's own words."""


class Finding(NamedTuple):
    """A phrase to replace. `line` counts from 1."""

    line: int
    found: str
    write: str


_OBJECT: Final = r"(?:the(?! same)|an?|its|what|at|back|all|each|every|none|them|it)"
PHRASES: Final = (
    (r"told|tells|telling", "reported, returned, shows, raises"),
    (r"asked|who asks|asks for", "requested, called, queried"),
    (
        r"(?:what|that) moved (?:it|them)|moved by|moved (?:\w+ |\w+'s |this query's )?score",
        "(top) feature contributions",
    ),
    (r"mend(?:s|ed|ing)?", "fix, fixed; in messages: what to do"),
    (r"at rest|rested|resting|rests(?! (?:on|with)\b)", "is cooling down, is ejected"),
    (r"(?:a|its|their|next|first|last|each|longest|longer|shortest) (?-i:rest)(?! of\b)", "cooldown"),
    (r"rest(?:s|ed)? as cooldown|rest for|rest until", "cooldown"),
    (r"(?:goes|go|went|going) on(?! (?:the (?:wire|line|path)|top)\b)", "continues, resumes"),
    (r"nobody|somebody|whoever", "no replica, another client, the caller"),
    (r"aside(?! from\b)", "quarantined, renamed to"),
    (r"in a row(?! of\b)", "consecutive"),
    (r"beside", "alongside, next to, see also"),
    (r"at hand|to be had|be had", "available"),
    (r"lean client", "minimal client"),
    (r"passed over(?! the (?:wire|network)\b)", "skipped"),
    (r"cannot be(?=\s*(?:[.,;:)\"']|$))", "is invalid"),
    (r"wants|wanted", "requires, requested, demand"),
    (r"(?<=[;,`)]) gives (?:the(?! same)|an?|its|what|at|back|all|each|every|none|them|it)", "returns"),
    (
        r"(?:and|it|which|function|method|call) gives (?:the(?! same)|an?|its|what|back|all|each|every|none|them|it)",
        "returns",
    ),
    (r"(?-i:Gives)|\| gives \|", "returns"),
    (r"(?:the|a) start (?:stops|is refused|fails)|stops the start", "startup fails"),
    (r"by reference", "read from the environment variable named in"),
    (r"(?:stands?|stood|standing|lies?|lay|lying) in(?! for\b)", "is in, is stored in"),
    (r"as (?:it|they) comes?", "by default; as they arrive"),
    (r"(?:a )?fifth back", "a 20 % hold-out"),
    (r"with commas? between|commas between", "comma-separated"),
    (r"by its word", "as it reports"),
)
PROSE: Final = tuple((re.compile(rf"(?<![\w-])(?:{p})(?!\w|-\w)".replace(" ", r"\s+"), re.I), w) for p, w in PHRASES)
ANY_PROSE: Final = re.compile("|".join(pattern.pattern for pattern, _ in PROSE), re.I)
CONFIDENCE: Final = re.compile(r"(?<![a-z])judg(?:ed|ing|e?ments?)(?![a-z])", re.I)
"""A judge is a model that grades; cascades have confidence, callers give feedback."""

WORDS: Final = {
    **dict.fromkeys(("told", "tells", "teller"), "report, reported"),
    **dict.fromkeys(("mend", "mends", "mended"), "fix"),
    **dict.fromkeys(("nobody", "somebody", "whoever"), "the party's name"),
    **dict.fromkeys(("wanted", "wants"), "requested, demand"),
    **dict.fromkeys(("rests", "rested", "resting"), "cooldown"),
    **dict.fromkeys(("outlook", "outlooks"), "expected outcome"),
    "asked": "requested, called, queried",
    "aside": "quarantined",
    "beside": "alongside",
}
"""Parts of a name, split at underscores and capitals."""

NAMES: Final = {
    "Ascent": "CascadeRun",
    "Way": "Stage",
    "Visit": "StageResult",
    "ways_up": "plan_stages",
    "Opening": "Relay",
    "Passing": "PendingStream",
    "AsAsked": "response_filter",
    "to_its_end": "run_shielded",
    "rest_s": "cooldown_s",
    "DecidedCalibrator": "BinnedAcceptance",
    "Offered": "AvailableCascades",
    "_Far": "RemoteScorer",
    "Remote": "RemoteScorer",
    "Relief": "OverloadPolicy",
    "Placing": "RouterFactory",
    "Complaints": "ThrottledWarning",
    "FairPlaces": "FairLimiter",
    "Edge": "GatewayMiddleware",
    "Tail": "StreamFinalizer",
    "Exchange": "CompletionHandler",
    "Saw": "ObservedEvent",
    "Acting": "ActiveStream",
    "Keeping": "RegistryOptions",
    **dict.fromkeys(("How", "Means", "Where", "Terms", "Surroundings", "Further", "Draw"), "the thing it names"),
}
MODULES: Final = {
    "ascent": "run",
    "passing": "relay",
    "as_asked": "response_filter",
    "hopeless": "skip_rule",
    "patience": "latency_estimate",
    "to_its_end": "run_shielded",
    "decided": "binned_acceptance",
    "offered": "available",
    "elsewhere": "remote",
    "outlook": "expected",
    "places": "fair_limiter",
    "following": "policy_sync",
    "kept": "recovery",
    "outbox": "event_queue",
    "lifeline": "parent_watchdog",
    "judging": "confidence",
    "judgement": "confidence",
    "judgements": "feedback",
    "seen": "fingerprints",
    "scored": "requirements",
}


def prose_findings(text: str, *, confidence: bool = False) -> Iterator[Finding]:
    """Phrases of a text; those broken over two lines count for the first. `confidence`: forms of "judge" too."""
    found = [(m, next(w for p, w in PROSE if p.match(text, m.start()))) for m in ANY_PROSE.finditer(text)]
    if confidence:
        found += [(m, "confidence, feedback") for m in CONFIDENCE.finditer(text)]
    for match, write in found:
        phrase = " ".join(re.sub(r"[\s#]+", " ", match.group()).split())
        yield Finding(text.count("\n", 0, match.start()) + 1, phrase, write)


def name_findings(name: str, line: int, *, confidence: bool = False) -> Iterator[Finding]:
    """A name that is listed, or one with a listed word in it."""
    if name in NAMES:
        yield Finding(line, name, NAMES[name])
        return
    for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name):
        if word.casefold() in WORDS:
            yield Finding(line, name, WORDS[word.casefold()])
            return
        if confidence and CONFIDENCE.fullmatch(word):
            yield Finding(line, name, "confidence, feedback")
            return


def python_findings(source: str, *, confidence: bool = False) -> Iterator[Finding]:
    """Names, and the prose of comments and strings, in which a phrase may run over lines."""
    lines = source.splitlines(keepends=True)
    prose = [list("\0" * (len(line) - 1) + "\n") for line in lines]
    strings = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield from name_findings(token.string, token.start[0], confidence=confidence)
        elif token.type == tokenize.COMMENT or token.type in strings:
            key = re.fullmatch(r"[a-z]*[\"']([a-z_0-9]+)[\"']", token.string) is not None
            if not key:
                _copy(prose, lines, token)
    for number, line in enumerate(lines):  # a phrase may run over strings and comments on lines of their own
        indent = len(line) - len(line.lstrip())
        prose[number][:indent] = line[:indent]
    yield from prose_findings("".join("".join(line) for line in prose), confidence=confidence)


def _copy(prose: list[list[str]], lines: Sequence[str], token: tokenize.TokenInfo) -> None:
    """Put a token's text into `prose`, without quotes and comment signs."""
    (first, start), (last, end) = token.start, token.end
    for number in range(first - 1, last):
        left = start if number == first - 1 else 0
        right = end if number == last - 1 else len(lines[number].rstrip("\r\n"))
        prose[number][left:right] = lines[number][left:right]
        if token.type == tokenize.COMMENT:
            prose[number][left] = " "
    if token.type == tokenize.STRING:
        prefix, quote = re.match(r"([a-zA-Z]*)(\"\"\"|'''|\"|')", token.string).groups()  # type: ignore[union-attr]
        prose[first - 1][start : start + len(prefix + quote)] = " " * len(prefix + quote)
        prose[last - 1][end - len(quote) : end] = " " * len(quote)


def file_findings(path: Path) -> list[Finding]:
    """All findings of a file, in the order of its lines; a module's own name counts as line 1."""
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
    confidence = name.startswith(("serve_app/cascade/", "serve_app/store/", "serve_app/api/", "docs/", "README"))
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        data = r"https?://[^\s)>\"']+|`[a-z_0-9]+`"  # addresses, and keys of a format
        text = re.sub(data, lambda m: "\0" * len(m.group()), text)
        return sorted(prose_findings(text, confidence=confidence))
    found = list(python_findings(text, confidence=confidence))
    if path.stem in MODULES and name.startswith("serve_app/"):
        found.append(Finding(1, f"{path.stem}.py", MODULES[path.stem]))
    return sorted(found)


def files_of(place: Path) -> list[Path]:
    """Python and text files under a folder, or the file itself; no data."""
    if place.is_file():
        return [place]
    return sorted(
        p
        for p in place.rglob("*")
        if p.is_file()
        and (p.suffix == ".py" or p.suffix in TEXT)
        and "__pycache__" not in p.parts
        and p.name not in DATA
    )


def group_of(path: Path) -> str:
    """The folder that a file is counted under: two levels of serve_app, one elsewhere."""
    parts = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else path.parts
    return "/".join(parts[:2] if parts[0] == "serve_app" else parts[:1])


def main(arguments: Sequence[str]) -> int:
    """Check the places named, all of them by default; 1 if anything was found, 2 for a place that does not exist."""
    places = [Path(a).resolve() for a in arguments] or [ROOT / p for p in PLACES if (ROOT / p).exists()]
    missing = [p for p in places if not p.exists()]
    if missing:
        print(f"no such file or folder: {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    counts: Counter[str] = Counter()
    for path in (file for place in places for file in files_of(place)):
        for finding in file_findings(path):
            shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
            print(f"{shown}:{finding.line}: {finding.found!r}: write {finding.write}")
            counts[group_of(path)] += 1
    for group, count in sorted(counts.items()):
        print(f"{count:6d}  {group}")
    print(f"{counts.total():6d}  in all")
    return 1 if counts else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
