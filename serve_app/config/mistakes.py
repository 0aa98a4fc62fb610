"""Pydantic's validation errors as sentences: file, key, value and what to do."""

import difflib
import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from serve_app.config.schema import known_keys
from serve_app.config.tree import Config

_KINDS = ("transformers", "vllm", "openai")
_SECRET = re.compile(r"(^|_)(key|token|secret|password|authorization)$", re.IGNORECASE)


def sentence(where: str, err: Any, root: type[BaseModel] = Config) -> str:
    """One error of pydantic's `ValidationError.errors()`, said for whoever wrote the file `where`, a `root`."""
    key = ".".join(_keys(err["loc"])) or "the file"
    message = str(err["msg"]).removeprefix("Value error, ")
    if err["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key (value {_value(err)}); {_near(err, root)}"
    if err["type"] == "missing":
        return f"{where}: {key}: missing; add it"
    return f"{where}: {key}: {message} (value {_value(err)})"


def _keys(loc: Sequence[Any]) -> list[str]:
    """The path as the file spells it: pydantic puts the engine's kind behind `engine`, which is no key."""
    return [
        str(part) for before, part in zip(("", *loc), loc, strict=False) if before != "engine" or part not in _KINDS
    ]


def _near(err: Any, root: type[BaseModel]) -> str:
    """The most similar known key, looked up by walking the tree's fields along the error's path."""
    keys = known_keys(err["loc"][:-1], root)
    near = difflib.get_close_matches(str(err["loc"][-1]), keys, 1)
    return f"did you mean {near[0]}?" if near else f"remove it; known keys: {', '.join(keys)}"


def _value(err: Any) -> str:
    """The value, unless its key says that it may be a secret put into the file by mistake."""
    value = err["input"]
    if isinstance(value, dict):
        return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    last = str(err["loc"][-1]) if err["loc"] else ""
    return "not shown" if _SECRET.search(last) and isinstance(value, str) else short(value)


def short(value: Any) -> str:
    """The value on one line, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
