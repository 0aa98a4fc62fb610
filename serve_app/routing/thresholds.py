"""Changes of a router's threshold while it serves: what is in force, who changed it and when, and undo.

    <registry>/<name>/current      version, threshold, and the rule of the config that it replaces: what is in force
    <registry>/<name>/history.jsonl   the latest changes, one JSON object a line, for the owner only

`current` is the one truth: Gateways follow it, and `jethro router use` writes it too. It is replaced whole, then the
history; both under one lock, so that concurrent changes follow one another. A change holds until the router's version
or the rule of the config changes: a new version's scores mean something else, and an edited config is the later word.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, Self

from serve_app.errors import ConfigError
from serve_app.files import replacing, write_whole

_KEPT: Final = 200
"""Changes in the history; older ones are dropped."""
_FILE: Final = "history.jsonl"
_CURRENT: Final = "current"

Action = Literal["set", "undo", "use"]


class NothingToUndo(ConfigError):
    """There is no change that could be undone, or another was made since by other means."""


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """What `current` says: the version that serves and, if one was chosen, its threshold.

    `rule` is that of the config which the threshold replaces, None for none.
    """

    version: str
    threshold: float | None = None
    rule: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The content of the file; None if it is empty. Raises ValueError."""
        version, *further = text.split() or [""]
        threshold = float(further[0]) if further else None
        if threshold is not None and not 0.0 <= threshold <= 1.0:
            raise ValueError(f"{threshold:g} is not in [0, 1]")
        return cls(version, threshold, further[1] if len(further) > 1 else None) if version else None

    def __str__(self) -> str:
        threshold = [] if self.threshold is None else [repr(self.threshold)]
        return " ".join([self.version, *threshold, *([self.rule] if threshold and self.rule else [])])

    def holds(self, version: str, rule: str | None) -> bool:
        """Whether the threshold is in force for this version where the config has this rule."""
        return self.threshold is not None and self.version == version and rule in (None, self.rule)


@dataclass(frozen=True, slots=True)
class ThresholdChange:
    """One change, from threshold to threshold. `chosen` and `chosen_before`: None where it was not chosen."""

    changed_s: float
    by: str
    action: Action
    version: str
    before: float
    after: float
    chosen: float | None
    chosen_before: float | None
    rule: str | None = None

    @classmethod
    def by_command(cls, version: str, before: float | None, after: float, chosen: float | None) -> Self:
        """`jethro router use` was run, or a training that takes its router into service."""
        now_s = round(time.time(), 3)
        return cls(now_s, "jethro router use", "use", version, after if before is None else before, after, chosen, None)

    @classmethod
    def parse(cls, line: str) -> Self:
        """From a line of the history. Raises ValueError, KeyError, TypeError."""
        found = json.loads(line)
        change = cls(**{name: found[name] for name in cls.__slots__})
        numbers = (change.changed_s, change.before, change.after)
        optional = [n for n in (change.chosen, change.chosen_before) if n is not None]
        if not all(isinstance(n, int | float) and isfinite(n) for n in (*numbers, *optional)):
            raise ValueError("a number is missing or not finite")
        if not all(isinstance(text, str) for text in (change.by, change.action, change.version)):
            raise ValueError("a text is missing")
        return change

    def to_json(self) -> dict[str, Any]:
        """JSON-ready values, for an operator."""
        whole = asdict(self)
        for name in ("chosen", "chosen_before"):
            del whole[name]
        return whole


@dataclass(frozen=True, slots=True)
class ThresholdHistory:
    """Changes, oldest first; `damaged` lines of the file could not be read and were left out."""

    changes: Sequence[ThresholdChange] = ()
    damaged: int = 0


@dataclass(frozen=True, slots=True)
class RouterThreshold:
    """The threshold of one router version, kept in `folder`, that of its name in the registry.

    `own` is in force while no other is chosen: by `rule` of the config, or without one the router's own.
    """

    folder: Path
    version: str
    own: float
    rule: str | None = None

    def in_force(self) -> float:
        """The threshold now. Raises ConfigError for a file that cannot be read."""
        chosen = self._chosen()
        return self.own if chosen is None else chosen

    def set(self, threshold: float, by: str) -> ThresholdChange:
        """Serve at this threshold from now on. Raises ConfigError for one outside [0, 1], OSError."""
        if not 0.0 <= threshold <= 1.0:
            raise ConfigError(f"threshold {threshold:g}: give a number from 0 (always strong) to 1")
        with locked(self.folder):
            return self._change(threshold, by, "set")

    def undo(self, by: str) -> ThresholdChange:
        """Take the last change back that is not undone yet. Raises NothingToUndo, OSError."""
        with locked(self.folder):
            standing: list[ThresholdChange] = []
            for change in read_history(self.folder).changes:
                if change.action == "use" or (change.version, change.rule) != (self.version, self.rule):
                    standing.clear()  # what was before it, of another version or rule perhaps, means nothing now
                elif change.action == "undo":
                    del standing[-1:]
                else:
                    standing.append(change)
            if not standing:
                raise NothingToUndo("no change of this router's threshold is left to undo: set one")
            if standing[-1].chosen != self._chosen():
                raise NothingToUndo("the threshold in force is not that of the last change in the history: set one")
            return self._change(standing[-1].chosen_before, by, "undo")

    def _change(self, threshold: float | None, by: str, action: Action) -> ThresholdChange:
        before = self._chosen()
        write_chosen(self.folder, ChosenThreshold(self.version, threshold, self.rule))
        values = [self.own if value is None else value for value in (before, threshold)]
        now_s = round(time.time(), 3)
        change = ThresholdChange(now_s, by, action, self.version, values[0], values[1], threshold, before, self.rule)
        add_to_history(self.folder, change)
        return change

    def _chosen(self) -> float | None:
        found = read_chosen(self.folder)
        return found.threshold if found is not None and found.holds(self.version, self.rule) else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One change at a time in a router's folder, over all threads and processes; makes the folder. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_chosen(folder: Path) -> ChosenThreshold | None:
    """What serves by the operator's choice; None if nothing was chosen. Raises ConfigError."""
    file = folder / _CURRENT
    try:
        return ChosenThreshold.parse(file.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as e:
        raise ConfigError(f"{file}: no threshold ({e}); choose it again with `jethro router use NAME@VERSION`") from e


def write_chosen(folder: Path, chosen: ChosenThreshold) -> None:
    """Serve this from now on; call it under the lock. Raises OSError."""
    write_whole(folder / _CURRENT, f"{chosen}\n".encode())


def read_history(folder: Path) -> ThresholdHistory:
    """The changes that the file holds. Lines that cannot be read are left out and counted."""
    try:
        lines = (folder / _FILE).read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return ThresholdHistory()
    except OSError:
        return ThresholdHistory((), 1)
    changes, damaged = [], 0
    for line in lines:
        try:
            changes.append(ThresholdChange.parse(line.decode()))
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged += 1
    return ThresholdHistory(changes, damaged)


def add_to_history(folder: Path, change: ThresholdChange) -> None:
    """One more change; a file with damaged lines is kept under another name first. Call it under the lock.

    Raises OSError.
    """
    file, found = folder / _FILE, read_history(folder)
    if found.damaged and file.is_file():
        file.replace(file.with_name(f"{_FILE}.damaged"))
    changes = [*found.changes, change][-_KEPT:]
    with replacing(file) as part:
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as written:
            written.writelines(json.dumps(asdict(c), allow_nan=False) + "\n" for c in changes)
