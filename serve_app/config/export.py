"""Settings that other libraries read from the environment alone; with `load`, the only place that touches it."""

import os
from collections.abc import Mapping


def export(variables: Mapping[str, str]) -> None:
    """Set environment variables for this process and its children. What the operator has set stays as it is."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
