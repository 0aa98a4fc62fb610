"""The queries to collect answers to: from a file, from the decision log, or from the lab."""

from pathlib import Path

from serve_app.errors import DataError
from serve_app.learning.asked import Asked
from serve_app.learning.lab_queries import Half, unseen_queries
from serve_app.learning.records import messages_of, read_records
from serve_app.types import Message, Query


def asked_of_file(path: Path, limit: int | None = None) -> list[Asked]:
    """The rows of a file: `prompt`, `messages` or `turns`, and if it likes `id`, `group` and `reference`.

    Without an id the position is one. Raises DataError naming file, row and fault.
    """
    found: list[Asked] = []
    first: dict[str, str] = {}
    for number, record in enumerate(read_records(path)):
        if limit is not None and number >= limit:
            break
        name = record.text("id") or str(number)
        if name in first:
            raise record.fault(f"id {name!r} is that of {first[name]} too; ids must differ")
        first[name] = record.where
        query = Query(messages_of(record))
        found.append(Asked(query, name, record.text("group") or "", record.text("reference", "answer")))
    if not found:
        raise DataError(f"{path}: there is no row")
    return found


def asked_of_log(path: Path, limit: int | None = None) -> list[Asked]:
    """The newest different conversations of a decision log, each as one message of the user.

    Raises ConfigError for a file that is no log, DataError for one that kept no prompts.
    """
    from serve_app.store.prompts import read_prompts  # SQLAlchemy, which the other sources do not need

    prompts = read_prompts(path, limit)
    if not prompts:
        raise DataError(f"{path}: no prompt was kept; serve with store.keep_prompts: true, or give --prompts")
    return [Asked(Query((Message("user", text),)), decision_id) for decision_id, text in prompts]


def asked_of_lab(n: int, seed: int, half: Half) -> list[Asked]:
    """`n` lab queries unseen by the models and of one half, without those drawn again: at most `n` different ones."""
    items = {item.prompt: item for item in unseen_queries(n, seed, half)}
    return [
        Asked(Query((Message("user", i.prompt),)), f"lab-{number}", f"{i.task}-{i.difficulty}", i.answer)
        for number, i in enumerate(items.values())
    ]
