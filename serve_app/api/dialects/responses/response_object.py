"""OpenAI's response object: what was requested, and what became of it."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from serve_app.api.dialects.pieces import UsagePiece
from serve_app.api.dialects.responses.schemas import ResponsesRequest
from serve_app.errors import JethroError
from serve_app.types import FinishReason, Usage

ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]
_REASONS: Final[Mapping[str, str]] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def status_of(finish: FinishReason | None) -> ResponseStatus:
    """The status of an answer that ended for this reason."""
    return "incomplete" if finish in _REASONS else "completed"


def incomplete_details(finish: FinishReason | None) -> dict[str, Any] | None:
    """Why an answer is incomplete."""
    return {"reason": _REASONS[finish]} if finish is not None and finish in _REASONS else None


def echo(request: ResponsesRequest, given: Mapping[str, Any]) -> dict[str, Any]:
    """The request's parameters as every response object shows them; `given` is the body they were read from."""
    text, reasoning = given.get("text") or {}, given.get("reasoning") or {}
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
        "safety_identifier": request.safety_identifier,
        "service_tier": request.service_tier or "default",
        "temperature": 1.0 if request.temperature is None else request.temperature,
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": text.get("verbosity") or "medium"},
        "tool_choice": given.get("tool_choice") or "auto",
        "tools": [{"parameters": None, "strict": None, **tool} for tool in given.get("tools") or ()],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def usage_shown(found: UsagePiece | None, total: Usage | None, spent: Usage) -> dict[str, Any]:
    """The usage: `total` of all calls if several were made, else the answer's own, else what was `spent`."""
    details = found or UsagePiece({})
    own = Usage(*(_count(found, name) for name in ("prompt_tokens", "completion_tokens"))) if found else spent
    usage = total or own
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": details.detail("prompt_tokens_details", "cached_tokens"),
            "cache_write_tokens": details.detail("prompt_tokens_details", "cache_write_tokens"),
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": details.detail("completion_tokens_details", "reasoning_tokens")},
        "total_tokens": usage.total_tokens,
    }


def _count(found: UsagePiece, name: str) -> int:
    count = found.usage.get(name)
    return count if type(count) is int and count > 0 else 0


def failure(error: JethroError) -> dict[str, Any]:
    """The `error` of a response that failed: its code is one of OpenAI's few."""
    return {"code": "rate_limit_exceeded" if error.status == 429 else "server_error", "message": error.message}
