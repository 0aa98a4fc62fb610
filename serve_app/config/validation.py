"""Pydantic's validation errors as sentences: file, key, value and the fix."""

import difflib
import re
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from serve_app.config.tree import Config


def known_keys(path: Sequence[Any], root: type[BaseModel] = Config) -> list[str]:
    """Keys allowed at a path of an error location; empty where any key is allowed or the path is unknown."""
    nodes: list[Any] = [root]
    for part in path:
        nodes = [n for node in nodes for n in _step(node, part)]
    return sorted({k for n in nodes if _is_model(n) for k in n.model_fields})


def _step(node: Any, part: Any) -> list[Any]:
    if _is_model(node):
        if part in node.model_fields:
            return _flat(node.model_fields[part].annotation)
        # pydantic puts the tag of a union's member into the path, which is no key of the file
        kind = node.model_fields.get("kind")
        return [node] if kind is not None and kind.default == part else []
    if typing.get_origin(node) is dict:
        return _flat(typing.get_args(node)[1])
    return _flat(typing.get_args(node)[0]) if typing.get_origin(node) is tuple else []


def _flat(annotation: Any) -> list[Any]:
    """The members of a union, Annotated stripped."""
    if (origin := typing.get_origin(annotation)) is typing.Annotated:
        return _flat(typing.get_args(annotation)[0])
    if origin in (dict, tuple):
        return [annotation]
    args = typing.get_args(annotation)
    return [m for a in args for m in _flat(a)] if args else [annotation]


def _is_model(node: Any) -> bool:
    return isinstance(node, type) and issubclass(node, BaseModel)


def sentences(where: str, errors: Sequence[Any], root: type[BaseModel] = Config) -> list[str]:
    """All errors of one `ValidationError.errors()`, without those that follow from another one.

    A list whose items are wrong is also "too short", and the right name of a misspelled key is also "missing".
    """
    misspelled = {(*err["loc"][:-1], _nearest(err, root)) for err in errors if err["type"] == "extra_forbidden"}
    return [
        sentence(where, err, root)
        for err in errors
        if not (err["type"] == "too_short" and any(_inside(other["loc"], err["loc"]) for other in errors))
        and not (err["type"] == "missing" and err["loc"] in misspelled)
    ]


def _inside(loc: Sequence[Any], outer: Sequence[Any]) -> bool:
    return len(loc) > len(outer) and tuple(loc[: len(outer)]) == tuple(outer)


_KINDS = ("transformers", "vllm", "openai")
_USERINFO = re.compile(r"//[^/?#]*@")
_SECRET = re.compile(r"(^|_)(key|token|secret|password|authorization)$", re.IGNORECASE)


def sentence(where: str, err: Any, root: type[BaseModel] = Config) -> str:
    """One error of pydantic's `ValidationError.errors()`, worded for the author of the file `where`, a `root`."""
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
    near = _nearest(err, root)
    return f"did you mean {near}?" if near else f"remove it; known keys: {', '.join(known_keys(err['loc'][:-1], root))}"


def _nearest(err: Any, root: type[BaseModel]) -> str | None:
    near = difflib.get_close_matches(str(err["loc"][-1]), known_keys(err["loc"][:-1], root), 1)
    return near[0] if near else None


def _value(err: Any) -> str:
    """The value, unless its key says that it may be a secret put into the file by mistake."""
    value = err["input"]
    if isinstance(value, dict):
        return f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
    last = str(err["loc"][-1]) if err["loc"] else ""
    if isinstance(value, str):
        value = _USERINFO.sub("//[hidden]@", value)
    return "not shown" if _SECRET.search(last) and isinstance(value, str) else short(value)


def short(value: Any) -> str:
    """The value on one line, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
