"""vLLM's exceptions as ours. Imports vLLM, so it is imported only where an engine runs."""

from pydantic import ValidationError
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMValidationError

from serve_app.errors import ContextLengthExceeded, JethroError, Overloaded, RequestError, UpstreamError

_RETRY_AFTER_S = 1.0
_LENGTH_PARAMETERS = ("input_text", "input_tokens")
_PARAMETERS = {"max_completion_tokens": "max_tokens", "structured_outputs": "response_format"}
_INNER_MESSAGE_CHARS = 500


def of_request(error: Exception, *, prompt: str = "messages") -> JethroError:
    """The error for what rendering a request or handing it to the engine raised; `prompt` names the prompt's field."""
    if isinstance(error, JethroError):
        return error
    if isinstance(error, VLLMValidationError):
        return _of_validation(error, prompt)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else None
        return RequestError(f"{key or 'the request'}: {first['msg']}", param=_PARAMETERS.get(key or "", key))
    if isinstance(error, VLLMClientError | ValueError | TypeError):
        return RequestError(str(error)[:_INNER_MESSAGE_CHARS] or type(error).__name__)
    if isinstance(error, GracefulHTTPError):
        return Overloaded(error.message, retry_after_s=_RETRY_AFTER_S)
    return UpstreamError(f"the model's engine failed ({type(error).__name__})")


def _of_validation(error: VLLMValidationError, prompt: str) -> RequestError:
    message = str(error.args[0])[:_INNER_MESSAGE_CHARS] if error.args else "invalid request"
    if error.parameter in _LENGTH_PARAMETERS:
        return ContextLengthExceeded(message, param=prompt)
    return RequestError(message, param=_PARAMETERS.get(error.parameter or "", error.parameter))
