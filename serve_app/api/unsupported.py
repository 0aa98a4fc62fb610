"""OpenAI's parameters that cannot be honoured here, each with the values that ask for nothing and may pass.

A parameter that is not OpenAI's at all is left to the schema, which refuses it as unknown.
"""

from collections.abc import Mapping
from typing import Any, Final

from serve_app.errors import UnsupportedParameter

_CHAT: Final[Mapping[str, tuple[Any, ...]]] = {
    "audio": (None,),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "prompt_cache_key": (None,),
    "prompt_cache_options": (None,),
    "prompt_cache_retention": (None,),
    "reasoning_effort": (None,),
    "safety_identifier": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
}
_COMPLETIONS: Final[Mapping[str, tuple[Any, ...]]] = {
    "best_of": (None,),
    "echo": (None, False),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
}
UNSUPPORTED: Final[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {"chat": _CHAT, "completions": _COMPLETIONS}


def drop_unsupported(body: dict[str, Any], endpoint: str) -> None:
    """Take the harmless ones out of `body`. Raises UnsupportedParameter naming the first that asks for something."""
    table = UNSUPPORTED[endpoint]
    for name in table.keys() & body.keys():
        value = body.pop(name)
        if not any(type(value) is type(harmless) and value == harmless for harmless in table[name]):
            raise UnsupportedParameter(f"{name} is not supported here: leave it out.", param=name)
