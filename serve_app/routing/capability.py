"""Which parameters of a query a pool can honour, known before any model is asked.

The length of a prompt in tokens is known to the engine alone; it answers ContextLengthExceeded, and the strategy
then tries a pool with a larger context.
"""

from serve_app.errors import ContextLengthExceeded, JethroError, UnsupportedParameter
from serve_app.types import Capabilities, Query

_GUIDED = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
"""Further parameters by which vLLM constrains the answer."""


def unmet(query: Query, can: Capabilities) -> str | None:
    """The first parameter of the query that needs more than `can`; None if all can be honoured."""
    if query.tools and not can.tools:
        return "tools"
    if query.response_format and not can.guided and query.response_format.get("type", "text") != "text":
        return "response_format"
    if query.sampling.logprobs and not can.logprobs:
        return "logprobs"
    if query.extra and not can.guided:
        for key in _GUIDED:
            if key in query.extra:
                return key
    if query.adapter and not can.adapters:
        return "model"
    limit, asked = can.max_context_tokens, query.sampling.max_tokens
    if limit is not None and asked is not None and asked >= limit:
        return "max_tokens"
    return None


def refusal(param: str, models: str) -> JethroError:
    """The error for a parameter that none of `models` can honour."""
    if param == "max_tokens":
        return ContextLengthExceeded(
            f"max_tokens leaves no room for a prompt in the context of {models}: ask for fewer tokens", param=param
        )
    return UnsupportedParameter(f"{param} is not supported by {models}: leave it out or ask another model", param=param)
