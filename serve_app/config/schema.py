"""Walks the tree's model fields: which keys may stand at a path."""

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
    if typing.get_origin(node) is tuple:
        return _flat(typing.get_args(node)[0])
    return []


def _flat(annotation: Any) -> list[Any]:
    """The members of a union, Annotated stripped."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _flat(typing.get_args(annotation)[0])
    if origin in (dict, tuple):
        return [annotation]
    args = typing.get_args(annotation)
    return [m for a in args for m in _flat(a)] if args else [annotation]


def _is_model(node: Any) -> bool:
    return isinstance(node, type) and issubclass(node, BaseModel)
