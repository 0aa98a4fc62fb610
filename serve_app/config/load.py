"""Reads the tree: profile or YAML file, then environment overrides, then validation that says what to change.

Overrides: `JETHRO__SERVER__PORT=9000` sets `server.port`; values are read as YAML. A value `${NAME}` is that of an
environment variable, see `config.environment`.
"""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import unquote

import orjson
import yaml
from pydantic import ValidationError

from serve_app.config.environment import expanded
from serve_app.config.tree import Config
from serve_app.config.validation import sentences, short
from serve_app.errors import ConfigError, reading
from serve_app.front.settings import FOLDER, write_private

_PREFIX = "JETHRO__"
_SECRETS = "secrets.json"
TRACE_HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
"""OpenTelemetry's variables that may hold a collector's key, the more special one first."""
ADMIN_KEY = "JETHRO_ADMIN_KEY"
_OF_A_PAIR = (
    "router",
    "offered",
    "threshold",
    "strong_share",
    "max_quality_drop",
    "guarantee",
    "multi_pool",
    "best_of",
)
"""Keys of `routing` that mean nothing without a large model."""


def profile_names() -> list[str]:
    """The profiles that ship with the package."""
    folder = resources.files("serve_app.config") / "profiles"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(
    source: str | None = None,
    env: Mapping[str, str] | None = None,
    settings: Mapping[str, str] | None = None,
    *,
    small_only: bool = False,
) -> Config:
    """The config of a profile name or a YAML file (default `lab`), with overrides from the environment.

    `settings` come last and win: dotted keys (`server.port`) to values in YAML, as the command line gives them.
    `small_only` leaves out the pool `large` and what routes to it, see `Config.small_only`.
    Raises ConfigError with file, key, value and what to write instead, all mistakes at once.
    """
    env = os.environ if env is None else env
    where, content = _read(_chosen(source, env))
    tree = _parse(where, content)
    if small_only:
        tree = _without_large(tree)
    tree = expanded(where, tree, env)
    names = [name for name in sorted(env) if name.startswith(_PREFIX)]
    changes = [(f"environment variable {n}", n.removeprefix(_PREFIX).lower().split("__"), env[n]) for n in names]
    changes += [(f"setting {key}", key.split("."), text) for key, text in (settings or {}).items()]
    for origin, key, text in changes:
        _override(tree, origin, key, text)
    return _validate(", ".join([where, *(origin for origin, _, _ in changes)]), tree)


def source_name(source: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """What messages call the file or profile that `load` reads."""
    chosen = _chosen(source, os.environ if env is None else env)
    return f"profile {chosen}" if chosen in profile_names() and not Path(chosen).is_file() else chosen


def _chosen(source: str | None, env: Mapping[str, str]) -> str:
    return source or env.get("JETHRO_CONFIG") or "lab"


def check_file(path: str) -> Config:
    """The config of one file alone, no overrides: what `jethro config check` reports on."""
    where, text = _read(path)
    return _validate(where, expanded(where, _parse(where, text), os.environ))


def secret(name: str, *, used_by: str, env: Mapping[str, str] | None = None) -> str:
    """A secret by the name of its environment variable. Raises ConfigError if it is unset or empty."""
    env = os.environ if env is None else env
    value = env.get(name, "").strip() or _kept(env).get(name, "")
    if not value:
        raise ConfigError(f"{used_by}: environment variable {name} is not set; export it, or name another variable")
    return value


def optional_secret(name: str, env: Mapping[str, str] | None = None) -> str | None:
    """A secret that may be missing: None if its environment variable is unset or empty."""
    return (os.environ if env is None else env).get(name, "").strip() or None


def keep_secrets(names: Iterable[str], folder: Path, env: MutableMapping[str, str] | None = None) -> None:
    """Move secrets from the environment, which every child process inherits, to a file for the owner only."""
    env = os.environ if env is None else env
    kept = {name: env.pop(name).strip() for name in names if name in env}
    write_private(folder / _SECRETS, orjson.dumps(kept).decode())


@dataclass(frozen=True, slots=True)
class TraceExport:
    """How traces leave this process. `headers` may hold a key, and are in no repr."""

    exporter: Literal["otlp", "console", "none"]
    headers: Mapping[str, str] | None = field(default=None, repr=False)


def trace_export(env: Mapping[str, str] | None = None) -> TraceExport:
    """By OpenTelemetry's own variables; what is not read here its SDK reads itself.

    Raises ConfigError for an exporter or a protocol that is not there.
    """
    env = os.environ if env is None else env
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return TraceExport("none")
    if exporter == "console":
        return TraceExport("console")
    if exporter != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER: no exporter {short(exporter)}: use otlp, console or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := env.get(name, "").strip().lower():
            if protocol != "http/protobuf":
                raise ConfigError(f"{name}: protocol {short(protocol)} is not spoken here: use http/protobuf")
            break
    for name in TRACE_HEADERS:
        if text := env.get(name, "").strip() or _kept(env).get(name, ""):
            return TraceExport("otlp", _headers(name, text))
    return TraceExport("otlp")


def _headers(name: str, text: str) -> dict[str, str]:
    """OpenTelemetry's form: `key=value,key=value`, percent-encoded. Raises ConfigError, which quotes none of it."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", key.strip()):
            raise ConfigError(f"{name}: write headers as key=value, separated by commas")
        found[key.strip().lower()] = unquote(value.strip())
    return found


def _kept(env: Mapping[str, str]) -> dict[str, str]:
    file = Path(env[FOLDER]) / _SECRETS if FOLDER in env else None
    found: dict[str, str] = orjson.loads(file.read_bytes()) if file is not None and file.exists() else {}
    return found


def caller_key(env: Mapping[str, str] | None = None) -> str | None:
    """The key that `jethro chat` and `jethro route` send to an endpoint, from JETHRO_API_KEY; None if unset."""
    return optional_secret("JETHRO_API_KEY", env)


def operator_key(env: Mapping[str, str] | None = None) -> str | None:
    """The operator's key that `jethro decisions` sends to an endpoint, from JETHRO_ADMIN_KEY; None if unset."""
    return optional_secret(ADMIN_KEY, env)


def _read(source: str) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        with reading(path, f"give a UTF-8 YAML file or a profile: {', '.join(profile_names())}"):
            return str(path), path.read_text("utf-8")
    if source not in profile_names():
        near = difflib.get_close_matches(source, profile_names(), 1)
        hint = f"did you mean {near[0]}?" if near else "give a YAML file or a profile"
        raise ConfigError(f"no profile {source!r}: {hint} Profiles: {', '.join(profile_names())}")
    return f"profile {source}", (resources.files("serve_app.config") / "profiles" / f"{source}.yaml").read_text("utf-8")


class UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; raises ConstructorError at a second key of the same name."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *anchor`; keys written next to it override those merged in
            if (key := self.construct_object(key_node, deep=True)) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(where: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        raise ConfigError(f"{where}: not valid YAML: {e}") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping with the key pools, got {type(tree).__name__}")
    return tree


def _without_large(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of an endpoint with one model to answer."""
    pools, routing = tree.get("pools"), tree.get("routing")
    kept: dict[str, Any] = {"small_only": True}
    if isinstance(pools, dict):
        kept["pools"] = {name: pool for name, pool in pools.items() if name != "large"}
    if isinstance(routing, dict):
        kept["routing"] = {key: value for key, value in routing.items() if key not in _OF_A_PAIR}
    return tree | kept


def _override(tree: dict[str, Any], origin: str, key: list[str], text: str) -> None:
    """Set one value from outside the file; `origin` names it in messages."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{origin}: not valid YAML: {e}") from e
    if not all(key):
        raise ConfigError(f"{origin}: a part of the key is empty; write it as server.port or JETHRO__SERVER__PORT")
    for part in key[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"{origin}: {part} is not a branch (value {short(branch)})")
        tree = branch
    tree[key[-1]] = value


def _validate(where: str, tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as e:
        raise ConfigError("\n".join(sentences(where, e.errors()))) from e
