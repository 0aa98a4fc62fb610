"""Reads the data that a router is trained or measured on: checked, and with its two pools named small and large."""

from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.learning.checking import check
from serve_app.learning.dataset import Dataset
from serve_app.learning.preferences import Preferences

NAMES = ("small", "large")


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's file, its pools that a router chooses between, and a file of further battles if there is one."""

    path: Path
    weak: str = "small"
    strong: str = "large"
    preferences: Path | None = None

    def read(self, *, to_learn: bool = False) -> Dataset:
        """The dataset. Raises DataError, naming file and row, for what cannot be used (see `checking.check`).

        Further pools stay, for routers of many pools, unless others than small and large are chosen.
        `to_learn`: data in which one pool is better throughout are refused too.
        """
        dataset = Dataset.load(self.path)
        own = (self.weak, self.strong) == NAMES
        further = [name for name in dataset.pools if name not in NAMES] if own else []
        pools = (self.weak, *further, self.strong)
        check(dataset, pools=pools, needs_two_classes=to_learn, source=str(self.path))
        found = dataset if own else dataset.pair(self.weak, self.strong)
        if self.preferences is None:
            return found
        return replace(found, preferences=Preferences.load(self.preferences))
