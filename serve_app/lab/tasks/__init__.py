"""The lab's task families, each with an exact grader and five known difficulties."""

from serve_app.lab.tasks.arithmetic import Add, Expression, Multiply, Steps, Subtract
from serve_app.lab.tasks.base import LEVELS, Item, Task, grade
from serve_app.lab.tasks.calendar import Calendar
from serve_app.lab.tasks.letters import Count, Reverse
from serve_app.lab.tasks.lookup import Lookup
from serve_app.lab.tasks.numbers import Largest, Roman, Sort, Units

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
}
"""Every family by its name."""

CELLS: tuple[tuple[str, int], ...] = tuple((name, level) for name in TASKS for level in LEVELS)
"""Every (task, difficulty), in a fixed order."""

__all__ = ["CELLS", "LEVELS", "TASKS", "Item", "Task", "grade"]
