"""The request bodies as Pydantic models. The operator's limits are checked in query.py and images.py, not here."""

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from serve_app.api.dialects.content import Content, SaidContent, SeenContent, said_in, seen_in, text_in
from serve_app.api.dialects.content import Part as Part  # the base of all request objects
from serve_app.api.dialects.fields import FurtherFields
from serve_app.api.dialects.fields import JsonObject as JsonObject
from serve_app.types import Message

Name = Annotated[str, Field(min_length=1, max_length=256)]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class _Turn(Part):
    """Base of the turns."""

    name: Name | None = None

    def message(self) -> Message:
        """The turn as a Message."""
        extra = {"name": self.name} if self.name is not None else {}
        return Message(self.role, text_in(self.content), extra)  # type: ignore[attr-defined]


class SystemTurn(_Turn):
    """Instructions."""

    role: Literal["system"]
    content: Content


class DeveloperTurn(_Turn):
    """Instructions, by their newer name."""

    role: Literal["developer"]
    content: Content


class UserTurn(_Turn):
    """What the user says."""

    role: Literal["user"]
    content: SeenContent

    def message(self) -> Message:
        """The turn, with its images unchecked."""
        return seen_in("user", self.content, {"name": self.name} if self.name is not None else {})


class FunctionCall(Part):
    """A function that the model called; `arguments` is JSON as text, as the model wrote it."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class ToolCall(Part):
    """A call of one tool."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"]
    function: FunctionCall


class AssistantTurn(_Turn):
    """What the model said or called before, as it was given. What else an answer had is left out: see history.py."""

    role: Literal["assistant"]
    content: SaidContent | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    function_call: FunctionCall | None = None
    annotations: list[Any] | None = Field(None, description="Of an answer that is sent back; not given to models.")

    @model_validator(mode="after")
    def _says_something(self) -> "AssistantTurn":
        if "content" not in self.model_fields_set and not (self.tool_calls or self.function_call or self.refusal):
            raise ValueError("content is needed unless the turn has tool_calls, function_call or refusal")
        return self

    def message(self) -> Message:
        """The turn, its calls in `extra` as received."""
        extra: dict[str, Any] = {} if self.name is None else {"name": self.name}
        if self.tool_calls:
            extra["tool_calls"] = [
                {"id": c.id, "type": c.type, "function": {"name": c.function.name, "arguments": c.function.arguments}}
                for c in self.tool_calls
            ]
        if self.function_call is not None:
            extra["function_call"] = {"name": self.function_call.name, "arguments": self.function_call.arguments}
        text = said_in(self.content) if self.content else self.refusal or ""
        return Message("assistant", text, extra)


class ToolTurn(_Turn):
    """What a tool answered. Some clients name the tool too: OpenAI's API has no such field, and no model gets it."""

    role: Literal["tool"]
    content: SeenContent
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)]

    def message(self) -> Message:
        """The turn, with the id of the call it answers, and its images unchecked."""
        return seen_in("tool", self.content, {"tool_call_id": self.tool_call_id})


class FunctionTurn(Part):
    """What a function answered; the older form of a tool turn."""

    role: Literal["function"]
    content: Content
    name: Name

    def message(self) -> Message:
        """The turn, with the function's name."""
        return Message("function", text_in(self.content), {"name": self.name})


Turn = Annotated[
    SystemTurn | DeveloperTurn | UserTurn | AssistantTurn | ToolTurn | FunctionTurn, Field(discriminator="role")
]


Penalty = Annotated[float, Field(ge=-2, le=2)]
Stop = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
PoolName = Annotated[str, Field(min_length=1, max_length=128)]
Label = Annotated[str, Field(min_length=1, max_length=64)]
Share = Annotated[float, Field(ge=0, lt=1)]
StreamName = Annotated[
    str,
    Field(
        description="The model name is jethro-stream-NAME.",
        json_schema_extra={"pattern": r"^[a-z0-9][a-z0-9_-]{0,47}$"},  # checked with the rest of the stream
    ),
]
Tokens = Annotated[int, Field(ge=1)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class StreamOptions(Part):
    """Settings of a stream."""

    include_usage: bool | None = Field(None, description="One more chunk at the end, with the usage.")
    include_obfuscation: bool | None = Field(None, description="Taken, and without effect: nothing is padded here.")
    continuous_usage_stats: bool | None = Field(
        None, description="Taken, and without effect: the usage comes once, at the end."
    )


class Function(Part):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(Part):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class FunctionChoice(Part):
    """The name of a function."""

    name: FunctionName


class ToolChoice(Part):
    """The one tool that the model must call."""

    type: Literal["function"]
    function: FunctionChoice


class JsonSchema(Part):
    """The schema that the answer must follow."""

    name: FunctionName
    description: str | None = None
    schema_: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class TextFormat(Part):
    """Free text."""

    type: Literal["text"]


class JsonObjectFormat(Part):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchemaFormat(Part):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


def _one_key(schema: dict[str, Any]) -> None:
    schema |= {"minProperties": 1, "maxProperties": 1}
    for field in schema["properties"].values():
        field.pop("default", None)


class StructuredOutputs(Part):
    """An extension, named as in vLLM: the form of the answer, by exactly one of the keys."""

    model_config = ConfigDict(json_schema_extra=_one_key)

    json_: JsonObject | str = Field("", alias="json", description="A JSON schema, or one as text.")
    json_object: Literal[True] = Field(True, description="Any JSON object.")
    regex: str = Field("", min_length=1, description="The whole answer matches it.")
    choice: Annotated[list[Stop], Field(min_length=1)] = Field([], description="The answer is one of them.")
    grammar: str = Field("", min_length=1, description="A context-free grammar, in Lark's form or GBNF.")

    @model_validator(mode="after")
    def _has_one(self) -> "StructuredOutputs":
        if len(self.model_fields_set) != 1:
            raise ValueError("exactly one of json, json_object, regex, choice and grammar is needed")
        return self


UserId = Annotated[str, Field(max_length=512)]


_FURTHER: Final = {
    name: {key: value for key, value in schema.items() if key not in ("title", "default")}
    for name, schema in FurtherFields.model_json_schema()["properties"].items()
}


def _with_further(schema: dict[str, Any]) -> None:
    """Describes the parameters of FurtherFields with the others; they are read apart."""
    schema["properties"] |= _FURTHER


class _Sampled(Part):
    """Parameters that both endpoints share."""

    model_config = ConfigDict(json_schema_extra=_with_further)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | list[Stop] | None = None
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: UserId | None = None
    structured_outputs: StructuredOutputs | None = None


class ChatRequest(_Sampled):
    """The body of POST /v1/chat/completions and of POST /v1/route."""

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Tokens | None = None
    safety_identifier: UserId | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None


PromptText = Annotated[str, Field(min_length=1)]
PromptIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]


class CompletionRequest(_Sampled):
    """The body of POST /v1/completions: one prompt or several, each as text or as the token ids of a named model."""

    prompt: (
        PromptText
        | PromptIds
        | Annotated[list[PromptText], Field(min_length=1)]
        | Annotated[list[PromptIds], Field(min_length=1)]
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class FeedbackRequest(Part):
    """The body of POST /v1/feedback: a score, or which of two pools answered better, or both."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["score"]}, {"required": ["preferred"]}]})

    decision_id: Annotated[str, Field(min_length=1, max_length=128)]
    score: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="0: useless, 1: as good as can be.")
    preferred: PoolName | None = Field(
        None, description="The pool whose answer was better: the decision's own, or another; `tie` if neither's."
    )
    against: PoolName | None = Field(
        None,
        description="The pool whose answer was compared with the decision's; needed unless `preferred` names it, or "
        "the decision's is `small` or `large`, whose answers are compared with each other.",
    )
    comment: Annotated[str, Field(max_length=4096)] | None = None


class StreamRequest(Part):
    """The body of POST /v1/streams. At most one of `llm_share` (default: 0.2) and `mu`."""

    name: StreamName
    labels: Annotated[list[Label], Field(min_length=2, max_length=1000)]
    instruction: Annotated[str, Field(min_length=1, max_length=4000, description="The task, for the LLM.")]
    llm_pool: PoolName = Field("large", description="The pool that labels.")
    llm_share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Share of the queries that reach the LLM."
    )
    mu: Annotated[float, Field(ge=0, le=1e6)] | None = Field(None, description="Instead: the price of a unit of cost.")
    horizon: Annotated[int, Field(ge=1, le=10**9)] = Field(
        5000, description="Queries over which llm_share is kept as a whole; early ones may use more of it."
    )
    levels: Annotated[list[Literal["logistic", "encoder"]], Field(min_length=1, max_length=2)] = Field(
        ["logistic", "encoder"], description="Small models, weakest first."
    )
    explore_floor: Share = 0.0
    audit_share: Share = Field(0.005, description="Share of the queries that always go to the LLM.")
    objective: Literal["accuracy", "balanced"] = Field(
        "accuracy",
        description="What the small models learn for: accuracy over all queries, or the mean over labels of each "
        "label's recall.",
    )
    fixes: Annotated[dict[Annotated[str, Field(max_length=64)], bool], Field(max_length=32)] | None = Field(
        None, alias="mends"
    )
    params: Annotated[dict[Annotated[str, Field(max_length=64)], float], Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    reset: bool = Field(False, description="Start over, without what was learned, if the name is taken.")


class BudgetRequest(Part):
    """The body of PATCH /v1/streams/{name}: one of `llm_share` and `mu`."""

    llm_share: Annotated[float, Field(gt=0, le=1)] | None = None
    mu: Annotated[float, Field(ge=0, le=1e6)] | None = None
    horizon: Annotated[int, Field(ge=1, le=10**9)] | None = None


class AdapterRequest(Part):
    """The body of POST /v1/adapters. An adapter that Jethro did not train also needs `name` and `pool`."""

    source: Annotated[str, Field(min_length=1, max_length=1000)] = Field(
        description="A Hugging Face id, or a folder of the server below one of `adapters.sources`, in PEFT's format."
    )
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        None, description="What callers write after the model's id and a colon; null: the adapter's own."
    )
    pool: PoolName | None = Field(None, description="The pool whose model it belongs to.")
    task: Annotated[str, Field(max_length=256)] | None = Field(None, description="What it is for.")
    licence: Annotated[str, Field(max_length=256)] | None = None
    revision: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None, description="Of the Hugging Face repository."
    )
    replace: bool = Field(False, description="If the name is taken, serve this one instead.")
    pinned: bool = Field(False, description="Every replica loads it at once and keeps it.")


class AdapterPin(Part):
    """The body of PATCH /v1/adapters/{name}."""

    pinned: bool = Field(description="Every replica loads it at once and keeps it.")
