"""Reads the tree: profile or YAML file, then environment overrides, then validation with messages that mend.

Overrides: `JETHRO__SERVER__PORT=9000` sets `server.port`; values are read as YAML.
"""

import difflib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.config.tree import Config
from serve_app.errors import ConfigError

_PREFIX = "JETHRO__"


def profile_names() -> list[str]:
    """The profiles that ship with the package."""
    folder = resources.files("serve_app.config") / "profiles"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(source: str | None = None, env: Mapping[str, str] | None = None) -> Config:
    """The config of a profile name or a YAML file (default `lab`), with overrides from the environment.

    Raises ConfigError with file, key, value and mend, all mistakes at once.
    """
    env = os.environ if env is None else env
    source = source or env.get("JETHRO_CONFIG") or "lab"
    where, text = _read(source)
    tree = _parse(where, text)
    for key, value in _overrides(env):
        _set(tree, key, value)
    return _validate(where, tree)


def check_file(path: str) -> Config:
    """The config of one file alone, no overrides: what `jethro config check` reports on."""
    where, text = _read(path)
    return _validate(where, _parse(where, text))


def secret(name: str, *, used_by: str, env: Mapping[str, str] | None = None) -> str:
    """A secret by the name of its environment variable. Raises ConfigError if it is unset or empty."""
    value = (os.environ if env is None else env).get(name, "")
    if not value.strip():
        raise ConfigError(f"{used_by}: environment variable {name} is not set; export it or change the reference")
    return value.strip()


def _read(source: str) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            return str(path), path.read_text("utf-8")
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file; give a YAML file or a profile: {', '.join(profile_names())}"
            ) from None
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{path}: cannot be read ({e}); it must be a UTF-8 YAML file") from e
    if source not in profile_names():
        near = difflib.get_close_matches(source, profile_names(), 1)
        hint = f"did you mean {near[0]}?" if near else "give a YAML file or a profile"
        raise ConfigError(f"no profile {source!r}: {hint} Profiles: {', '.join(profile_names())}")
    return f"profile {source}", (resources.files("serve_app.config") / "profiles" / f"{source}.yaml").read_text("utf-8")


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, where YAML would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(where: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as e:
        raise ConfigError(f"{where}: not valid YAML: {e}") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: must be a mapping with the key pools, got {type(tree).__name__}")
    return tree


def _overrides(env: Mapping[str, str]) -> list[tuple[list[str], Any]]:
    found = []
    for name in sorted(env):
        if name.startswith(_PREFIX):
            try:
                value = yaml.safe_load(env[name])
            except yaml.YAMLError as e:
                raise ConfigError(f"environment variable {name}: not valid YAML: {e}") from e
            found.append((name.removeprefix(_PREFIX).lower().split("__"), value))
    return found


def _set(tree: dict[str, Any], key: list[str], value: Any) -> None:
    for part in key[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise ConfigError(f"environment variable {_PREFIX}{'__'.join(key).upper()}: {part} is not a branch")
        tree = branch
    tree[key[-1]] = value


def _validate(where: str, tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as e:
        raise ConfigError("\n".join(_sentence(where, err) for err in e.errors())) from e


def _sentence(where: str, err: Any) -> str:
    key = ".".join(str(p) for p in err["loc"] if p not in ("transformers", "vllm", "openai")) or "the file"
    message = str(err["msg"]).removeprefix("Value error, ")
    if err["type"] == "extra_forbidden":
        return f"{where}: {key}: unknown key (value {_short(err['input'])}); {_near(err)}"
    if err["type"] == "missing":
        return f"{where}: {key}: missing; add it"
    return f"{where}: {key}: {message} (value {_short(err['input'])})"


def _near(err: Any) -> str:
    """The most similar known key, looked up by walking the tree's fields along the error's path."""
    from serve_app.config.schema import (
        known_keys,  # the walk needs the whole tree; keep it out of the hot import
    )

    keys = known_keys(err["loc"][:-1])
    near = difflib.get_close_matches(str(err["loc"][-1]), keys, 1)
    return f"did you mean {near[0]}?" if near else f"remove it; known keys: {', '.join(keys)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
