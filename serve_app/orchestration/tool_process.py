"""The process that runs one tool: arguments in on standard input, its result out on standard output, then the end.

Of the standard library alone, as every call starts one. What the tool prints goes to standard error. Limits are set
before the tool's module is imported; the time limit is its parent's.
"""

import importlib
import json
import os
import resource
import sys
from typing import Any


def main() -> None:
    """Run what standard input names: {"function": "MODULE:NAME", "arguments": {...}, "memory_bytes": N}."""
    request = json.loads(sys.stdin.buffer.read())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    limit = int(request["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with out:
        json.dump(_reply(request["function"], request["arguments"]), out, ensure_ascii=False)


def _reply(function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    module, _, name = function.partition(":")
    try:
        result = getattr(importlib.import_module(module), name)(**arguments)
        return {"result": result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)}
    except Exception as error:  # whatever a tool raises is its result
        return {"error": type(error).__name__, "message": str(error)[:500]}


if __name__ == "__main__":
    main()
