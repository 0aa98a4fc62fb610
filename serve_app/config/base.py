"""What all settings share: frozen, no unknown keys, finite numbers; and checked kinds of text."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Node(BaseModel):
    """A branch of the config tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def _expanded(text: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise ValueError("~ stands for no home folder here: write the whole path") from None


def _named(text: str) -> str:
    if not text.strip() or not text.isprintable() or text != text.strip():
        raise ValueError("a model's name is printable text without blanks around it: write it as callers send it")
    return text


FolderOrFile = Annotated[str, AfterValidator(_expanded)]
"""A path in which `~` is the home folder."""
ModelName = Annotated[str, AfterValidator(_named)]
