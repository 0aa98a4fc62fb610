"""How a Gateway asks a replica for the number of tokens in a prompt: chat's body to COUNT_PATH, a number back."""

from typing import Final

import orjson

from serve_app.errors import UpstreamError

COUNT_PATH: Final = "/count_tokens"
"""Below the replica's /v1."""
_TOKENS: Final = "prompt_tokens"


def count_body(tokens: int) -> bytes:
    """The answer."""
    return orjson.dumps({_TOKENS: tokens})


def count_of(body: bytes) -> int:
    """The number in an answer. Raises UpstreamError if there is none."""
    try:
        tokens = orjson.loads(body)[_TOKENS]
    except (orjson.JSONDecodeError, KeyError, TypeError) as e:
        raise UpstreamError("the replica sent no count of tokens") from e
    if type(tokens) is not int or tokens < 0:
        raise UpstreamError("the replica sent no count of tokens")
    return tokens
