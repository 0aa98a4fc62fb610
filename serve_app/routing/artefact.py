"""Reads the files of a saved router, and refuses what this version cannot read with a sentence that mends."""

import json
from pathlib import Path
from typing import Any

from serve_app.errors import ConfigError


def read_json(path: Path, *, kind: str | None = None, version: int | None = None) -> dict[str, Any]:
    """The JSON object in `path`, its `kind` and `format` checked. Raises ConfigError naming the file and the mend."""
    try:
        body = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the folder of a saved router") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ConfigError(f"{path}: cannot be read ({e}); train and save the router again") from e
    if not isinstance(body, dict):
        raise ConfigError(f"{path}: must hold a JSON object, got {type(body).__name__}; save the router again")
    if kind is not None and body.get("kind") != kind:
        raise ConfigError(f"{path}: kind is {body.get('kind')!r}, not {kind!r}; give the folder of a {kind} router")
    if version is not None and body.get("format") != version:
        raise ConfigError(
            f"{path}: format is {body.get('format')!r}, this version reads {version}; train and save the router again"
        )
    return body
