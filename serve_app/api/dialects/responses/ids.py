"""Ids of responses and of items: made from the decision's id, so that an item's own id says which response keeps it."""

import re
from typing import Final

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
