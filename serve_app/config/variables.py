"""Values that a config file takes from the environment, in the shell's own forms.

A value that is nothing but `${NAME}` is the variable's; `${NAME:-value}` has a default, which may be empty (null);
`${NAME:?sentence}` says what to do where it is not set; `${NAME:+value}` is that value where it is set, else null. An
empty variable counts as not set. Only whole values are read so: a text that contains `${...}` stays as it is.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from serve_app.errors import ConfigError

_FORM: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<how>[-?+])(?P<rest>[^}]*))?\}")


def expanded(where: str, tree: Any, env: Mapping[str, str]) -> Any:
    """The tree with variables in place. Raises ConfigError with all that are not set, one a line."""
    missing: dict[str, None] = {}
    found = _expanded(tree, env, missing, ())
    if missing:
        raise ConfigError("\n".join(f"{where}: {said}" for said in missing))
    return found


def _expanded(node: Any, env: Mapping[str, str], missing: dict[str, None], path: tuple[str, ...]) -> Any:
    """One node; `missing` collects sentences, each once."""
    if isinstance(node, dict):
        return {key: _expanded(value, env, missing, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list):
        return [_expanded(value, env, missing, (*path, str(i))) for i, value in enumerate(node)]
    form = _FORM.fullmatch(node) if isinstance(node, str) else None
    if form is None:
        return node
    value, how, rest = env.get(form["name"], "").strip(), form["how"], form["rest"]
    if how == "+":
        return (rest or None) if value else None
    if value:
        return value
    if how == "-":
        return rest or None
    missing[rest or f"{'.'.join(path)}: environment variable {form['name']} is not set; export it"] = None
    return None
