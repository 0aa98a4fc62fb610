"""Reads the data that a router is trained or measured on: checked, and with its two pools named small and large."""

from dataclasses import dataclass, replace
from pathlib import Path

from serve_app.learning.checking import check
from serve_app.learning.dataset import Dataset
from serve_app.learning.preferences import Preferences


@dataclass(frozen=True, slots=True)
class Source:
    """A dataset's file, its pools that a router chooses between, and a file of further battles if there is one."""

    path: Path
    weak: str = "small"
    strong: str = "large"
    preferences: Path | None = None

    def read(self, *, to_learn: bool = False) -> Dataset:
        """The dataset. Raises DataError, naming file and row, for what cannot be used (see `checking.check`).

        `to_learn`: data in which one pool is better throughout are refused too.
        """
        dataset = Dataset.load(self.path)
        check(dataset, pools=(self.weak, self.strong), needs_two_classes=to_learn, source=str(self.path))
        pair = dataset.pair(self.weak, self.strong)
        if self.preferences is None:
            return pair
        return replace(pair, preferences=Preferences.load(self.preferences))
