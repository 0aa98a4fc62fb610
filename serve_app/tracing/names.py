"""Names of the attributes of spans: OpenTelemetry's semantic conventions where there is one, else `jethro.*`.

Taken from the conventions' package, and loaded with it when the first span is recorded.
"""

from typing import Final
from urllib.parse import urlsplit

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import http_attributes as http
from opentelemetry.semconv.attributes import server_attributes as server
from opentelemetry.semconv.attributes import url_attributes as url

METHOD: Final = http.HTTP_REQUEST_METHOD
ROUTE: Final = http.HTTP_ROUTE
STATUS_CODE: Final = http.HTTP_RESPONSE_STATUS_CODE
PATH: Final = url.URL_PATH
SERVER_ADDRESS: Final = server.SERVER_ADDRESS
SERVER_PORT: Final = server.SERVER_PORT

OPERATION: Final = gen_ai.GEN_AI_OPERATION_NAME
PROVIDER: Final = gen_ai.GEN_AI_PROVIDER_NAME
REQUEST_MODEL: Final = gen_ai.GEN_AI_REQUEST_MODEL
STREAM: Final = gen_ai.GEN_AI_REQUEST_STREAM
CHOICES: Final = gen_ai.GEN_AI_REQUEST_CHOICE_COUNT
MAX_TOKENS: Final = gen_ai.GEN_AI_REQUEST_MAX_TOKENS
TEMPERATURE: Final = gen_ai.GEN_AI_REQUEST_TEMPERATURE
TOP_P: Final = gen_ai.GEN_AI_REQUEST_TOP_P
SEED: Final = gen_ai.GEN_AI_REQUEST_SEED
FREQUENCY_PENALTY: Final = gen_ai.GEN_AI_REQUEST_FREQUENCY_PENALTY
PRESENCE_PENALTY: Final = gen_ai.GEN_AI_REQUEST_PRESENCE_PENALTY
OUTPUT_TYPE: Final = gen_ai.GEN_AI_OUTPUT_TYPE
RESPONSE_MODEL: Final = gen_ai.GEN_AI_RESPONSE_MODEL
RESPONSE_ID: Final = gen_ai.GEN_AI_RESPONSE_ID
FINISH_REASONS: Final = gen_ai.GEN_AI_RESPONSE_FINISH_REASONS
FIRST_CHUNK_S: Final = gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK
INPUT_TOKENS: Final = gen_ai.GEN_AI_USAGE_INPUT_TOKENS
OUTPUT_TOKENS: Final = gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS
INPUT_MESSAGES: Final = gen_ai.GEN_AI_INPUT_MESSAGES
OUTPUT_MESSAGES: Final = gen_ai.GEN_AI_OUTPUT_MESSAGES
TOOL_DEFINITIONS: Final = gen_ai.GEN_AI_TOOL_DEFINITIONS
TOOL_NAME: Final = gen_ai.GEN_AI_TOOL_NAME
TOOL_TYPE: Final = gen_ai.GEN_AI_TOOL_TYPE

OPERATIONS: Final = {
    "chat": gen_ai.GenAiOperationNameValues.CHAT.value,
    "completions": gen_ai.GenAiOperationNameValues.TEXT_COMPLETION.value,
    "embeddings": gen_ai.GenAiOperationNameValues.EMBEDDINGS.value,
    "messages": gen_ai.GenAiOperationNameValues.CHAT.value,
    "responses": gen_ai.GenAiOperationNameValues.CHAT.value,
}
EXECUTE_TOOL: Final = gen_ai.GenAiOperationNameValues.EXECUTE_TOOL.value
OURS: Final = "jethro"
"""The provider where the engine is a replica of this endpoint."""

_Providers = gen_ai.GenAiProviderNameValues
_PROVIDERS: Final = {
    "openai.azure.com": _Providers.AZURE_AI_OPENAI,
    "anthropic.com": _Providers.ANTHROPIC,
    "cohere.com": _Providers.COHERE,
    "deepseek.com": _Providers.DEEPSEEK,
    "groq.com": _Providers.GROQ,
    "mistral.ai": _Providers.MISTRAL_AI,
    "perplexity.ai": _Providers.PERPLEXITY,
    "x.ai": _Providers.X_AI,
    "googleapis.com": _Providers.GCP_GEMINI,
}


def provider_of(address: str) -> str:
    """The provider behind an upstream's address; of one that is not known, whose API it speaks: openai."""
    host = urlsplit(address).hostname or ""
    known = (value for domain, value in _PROVIDERS.items() if host == domain or host.endswith(f".{domain}"))
    return next(known, _Providers.OPENAI).value
