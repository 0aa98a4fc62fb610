"""Write the reference pages from the code: `python docs/reference.py`; `--check` only compares, 1 if one is stale."""

import argparse
import sys
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from serve_app.observability.definitions import MetricDefinition

ROOT: Final = Path(__file__).resolve().parent.parent
NOTE: Final = "<!-- Made by `python docs/reference.py`; edit the code, not this page. -->\n"
SIMPLE: Final = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", type(None): "`null`"}


def config_page() -> str:
    """Every key of the config tree: type with bounds, default, meaning."""
    from serve_app.config.tree import Config

    parts = [
        "# Reference: configuration\n",
        NOTE,
        "Every key of a config file, with its type, bounds and default. A config is one YAML file; any key can also be "
        "set by an environment variable (`JETHRO__SERVER__PORT=9000`) or on the command line "
        "(`--set server.port=9000`). `jethro config show` prints the values in force. See [configure](configure.md) "
        "for how to choose them.\n",
    ]
    parts += [_section(path, model) for path, model in _branches("", Config)]
    return "\n".join(parts)


def _branches(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The models below one, depth first, each with the path of its keys."""
    for name, field in model.model_fields.items():
        for suffix, inner in _models_of(field.annotation):
            below = f"{path}{name}{suffix}"
            yield below, inner
            yield from _branches(f"{below}.", inner)


def _models_of(annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Models that a field holds, with the rest of its path: `.<name>` for a mapping, `[]` for a list."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "", annotation
    elif origin is dict:
        yield from ((f".<name>{suffix}", model) for suffix, model in _models_of(arguments[1]))
    elif origin is tuple:
        yield from ((f"[]{suffix}", model) for suffix, model in _models_of(arguments[0]))
    elif origin is Annotated:
        yield from _models_of(arguments[0])
    elif origin in (Union, types.UnionType):
        for one in arguments:
            yield from ((_kind(model) + suffix, model) for suffix, model in _models_of(one))


def _kind(model: type[BaseModel]) -> str:
    """The `kind` that distinguishes the members of a union, as part of the path."""
    field = model.model_fields.get("kind")
    return f" (kind: {field.default})" if field else ""


def _section(path: str, model: type[BaseModel]) -> str:
    about = " ".join((model.__doc__ or "").split())
    rows = [_row(name, field) for name, field in model.model_fields.items() if name != "kind" or not _kind(model)]
    return f"## `{path}`\n\n{about}\n\n" + _table(("key", "type", "default", "meaning"), rows)


def _row(name: str, field: FieldInfo) -> tuple[str, ...]:
    kind = _type(field.annotation, field.metadata)
    return f"`{name}`", kind, _default(field), (field.description or "").replace("|", "\\|")


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type in words, with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = _type(arguments[0], arguments[1:])
    elif origin is Literal:
        text = ", ".join(f"`{one}`" for one in arguments)
    elif origin in (Union, types.UnionType):
        text = " or ".join(dict.fromkeys(_type(one) for one in arguments))
    elif origin is dict:
        item = _type(arguments[1])
        text = "by name, see below" if item == "see below" else f"mapping of name to {item}"
    elif origin in (tuple, list):
        item = _type(arguments[0])
        text = "list, see below" if item == "see below" else f"list of {item}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        text = "see below"
    else:
        text = SIMPLE.get(annotation, "any")
    return f"{text}{_bounds(metadata)}"


def _bounds(metadata: Iterable[Any]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    flat = list(_flat(metadata))
    found = [f"{sign} {getattr(one, key)}" for key, sign in signs.items() for one in flat if hasattr(one, key)]
    return f" {', '.join(found)}" if found else ""


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    """Constraints, those inside a pydantic Field included."""
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else [one]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None or value is PydanticUndefined:
        return "empty"
    if isinstance(value, BaseModel):
        return "see below"
    if value == ():
        return "empty"
    return f"`{'null' if value is None else str(value).lower() if isinstance(value, bool) else value}`"


def metrics_page() -> str:
    """Every metric that Prometheus can scrape: name, type, unit, labels, meaning."""
    from serve_app.observability import definitions as d

    found = list(d.definitions())
    by_source = {source: [_metric(m) for m in found if m.source == source] for source in ("gateway", "engine", "ray")}
    head = ("metric", "type", "unit", "labels", "meaning")
    parts = [
        "# Reference: metrics\n",
        NOTE,
        "`GET /metrics` returns Prometheus' text format: the metrics of all Gateways and those of the pools' engines "
        "(for vLLM's own metrics see its documentation). Counters end in `_total`; histograms have `_bucket`, `_sum` "
        "and `_count`. [Dashboards and alerts](dashboards.md) use them.\n",
        "## Gateways\n",
        "Each also has the label `gateway`.\n",
        _table(head, by_source["gateway"]),
        "Every Gateway reports the streams as the Learner last reported them: take one Gateway's value, not the sum. "
        "The label `stream` is the stream's uid, see [streams](streams.md#state-and-failures).\n",
        "## Engines\n",
        "Each also has the labels `pool` and `replica`. Those of adapters are exported by both engines, the others by "
        "the transformers engine; vLLM exports its own.\n",
        _table(head, by_source["engine"]),
        "## Exported by Ray\n",
        "On port 8080 of each node, with the prefix `ray_`.\n",
        _table(head, by_source["ray"]),
        "## Labels\n",
        "No label holds a tenant, a user, or anything of a request's content.\n",
        _table(("label", "values"), [(f"`{name}`", bound) for name, bound in d.LABELS.items()]),
        f"Reasons of decisions: {_codes(d.CAUSES)}.\n",
        f"Codes of refusals: {_codes(sorted(d.REFUSAL_CODES))}, `other`.\n",
        "## Metrics of other programs\n",
        "Those that the dashboards and alert rules use.\n",
        _table(
            ("metric", "labels", "meaning", "exported by"),
            [(f"`{m.name}`", _codes(m.labels), m.meaning, m.source) for m in d.FOREIGN],
        ),
    ]
    return "\n".join(parts)


def _metric(one: "MetricDefinition") -> tuple[str, ...]:
    return f"`{one.shown}`", one.kind, one.unit, _codes(one.labels), one.meaning


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    head = tuple(head)
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


PAGES: Final = {"reference-config.md": config_page, "reference-metrics.md": metrics_page}


def main(argv: list[str] | None = None) -> int:
    """Write the pages, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page differs from the code")
    check = parser.parse_args(argv).check
    stale = []
    for name, page in PAGES.items():
        path, text = ROOT / "docs" / name, page()
        if check and (not path.is_file() or path.read_text("utf-8") != text):
            stale.append(name)
        elif not check:
            path.write_text(text, "utf-8")
    if stale:
        print(f"{', '.join(stale)}: not as the code says; run python docs/reference.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
