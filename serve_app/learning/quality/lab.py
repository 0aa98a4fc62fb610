"""The lab's own graders, by the task that a row's group names."""

from serve_app.lab.tasks import TASKS, Item
from serve_app.learning.dataset import Dataset
from serve_app.learning.quality.base import ReferenceMetric


class LabGrader(ReferenceMetric):
    """The quality that a lab task's grader gives: exact answers only. Groups are `task-difficulty`, as `add-3`."""

    name = "lab"

    def prepare(self, dataset: Dataset, row: int, reference: str) -> Item:
        """The row as the lab's item."""
        group = dataset.groups[row]
        task, _, difficulty = group.rpartition("-")
        if task not in TASKS or not difficulty.isdecimal():
            raise ValueError(f"group {group!r} is no lab task and difficulty, as 'add-3': take another metric")
        return Item(task, int(difficulty), dataset.queries[row].text, reference)

    def grade(self, prepared: Item, answer: str) -> float:
        """1 or 0."""
        return TASKS[prepared.task].grade(prepared, answer)
