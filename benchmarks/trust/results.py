"""Where the scripts of this folder leave what they found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from benchmarks.process import ROOT

FOLDER = ROOT / "benchmarks" / "results"


def write(folder: Path, name: str, found: Mapping[str, Any], text: str) -> None:
    """Write NAME.json and the table NAME.md, and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    (folder / f"{name}.md").write_text(text, "utf-8")
    print(f"\n{text}\nWritten: {folder}/{name}.json, .md", flush=True)
