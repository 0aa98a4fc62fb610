"""Ids of responses and of items: made from the decision's id, so that an item's id says which response keeps it."""

import re
from collections.abc import Sequence
from typing import Any, Final

_PREFIX: Final = "resp_"
_ITEM: Final = re.compile(r"(?:msg|rs|fc|fco)_([0-9a-f]{24})_(?:in)?\d{1,6}")
_KINDS: Final = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


def response_id(decision_id: str) -> str:
    """The id of the answer that was decided by this decision."""
    return _PREFIX + decision_id


def output_id(decision_id: str, kind: str, index: int) -> str:
    """The id of an item of the answer, by its type and its place."""
    return f"{_KINDS[kind]}_{decision_id}_{index}"


def input_id(decision_id: str, kind: str, index: int) -> str:
    """The id of an item of the input that has none."""
    return f"{_KINDS[kind]}_{decision_id}_in{index}"


def place_of(item_id: str) -> str | None:
    """The id of the response that has an item of this id; None for an id that is not of here."""
    found = _ITEM.fullmatch(item_id)
    return None if found is None else response_id(found[1])


def identified(items: Sequence[dict[str, Any]], decision_id: str) -> list[dict[str, Any]]:
    """The items as they are kept and listed: complete, and each with an id."""
    return [_complete(item, input_id(decision_id, item["type"], i)) for i, item in enumerate(items)]


def _complete(item: dict[str, Any], own_id: str) -> dict[str, Any]:
    item = {**item, "id": item.get("id") or own_id, "status": item.get("status") or "completed"}
    if item["type"] == "message":
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        if isinstance(item["content"], str):
            item["content"] = [{"type": kind, "text": item["content"]}]
        item["content"] = [_complete_part(part) for part in item["content"]]
    elif item["type"] == "reasoning":
        item["summary"] = item.get("summary") or []
    elif item["type"] == "function_call_output" and isinstance(item["output"], list):
        item["output"] = [_complete_part(part) for part in item["output"]]
    return item


def _complete_part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "output_text":
        return {"annotations": [], **part}
    return {"detail": "auto", **part} if part["type"] == "input_image" else part
