"""The lab's task families, each with an exact grader, known sizes and five difficulties."""

from serve_app.lab.tasks.arithmetic import Add, Expression, Multiply, Steps, Subtract
from serve_app.lab.tasks.base import LEVELS, Item, Task, grade
from serve_app.lab.tasks.calendar import Calendar
from serve_app.lab.tasks.letters import Count, Reverse
from serve_app.lab.tasks.lookup import Lookup
from serve_app.lab.tasks.numbers import Largest, Roman, Sort, Units
from serve_app.lab.tasks.other import Other

TASKS: dict[str, Task] = {
    "add": Add(),
    "subtract": Subtract(),
    "multiply": Multiply(),
    "expression": Expression(),
    "sort": Sort(),
    "largest": Largest(),
    "reverse": Reverse(),
    "count": Count(),
    "calendar": Calendar(),
    "units": Units(),
    "roman": Roman(),
    "lookup": Lookup(),
    "steps": Steps(),
    "other": Other(),
}
"""Every family by its name."""

CELLS: tuple[tuple[str, str], ...] = tuple((name, size) for name, task in TASKS.items() for size in task.sizes)
"""Every (task, size), in a fixed order: the smallest size of a task first."""

__all__ = ["CELLS", "LEVELS", "TASKS", "Item", "Task", "grade"]
