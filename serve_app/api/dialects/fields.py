"""Parameters beyond those of schemas.py that clients send: checked, and left out where their value requests nothing.

They are read apart from the rest of a body, since most have none of them. What a query then holds of them is in its
`extra`; whether a pool honours it is for the strategies, see wire/parameters.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, Field

from serve_app.api.dialects.content import Part
from serve_app.config.engines import OpenAISettings
from serve_app.config.tree import Config
from serve_app.errors import RequestError, UnsupportedParameter
from serve_app.wire.parameters import HINTS, PASSED

_JSON_DEPTH = "must be plain JSON: nested at most 200 levels, integers within 64 bits"


def _plain_json(value: Any) -> Any:
    """What is forwarded to an engine must be serializable as JSON again."""
    try:
        orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError) as e:
        raise ValueError(_JSON_DEPTH) from e
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_plain_json)]
"""An object that is forwarded unchanged, such as a JSON schema."""

_RENDERING: Final = ("chat_template", "conversation", "messages", "tokenize", "tools")


def _arguments(value: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the model's own template: the template itself, and what is rendered, are not among them."""
    for name in _RENDERING:
        if name in value:
            raise ValueError(f"{name} is no argument of a template here, leave it out")
    return value


TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Key = Annotated[str, Field(max_length=512)]
Word = Annotated[str, Field(max_length=64)]


class FurtherFields(Part):
    """Every field may be null. What no pool honours is refused later, by its name."""

    # sampling, as vLLM and others name it
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = Field(None, description="-1 and 0: all tokens.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    length_penalty: float | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            Field(max_length=1024, json_schema_extra={"additionalProperties": False}),
        ]
        | None
    ) = Field(None, description="By token id.")
    use_beam_search: bool | None = None
    early_stopping: bool | Literal["never"] | None = None
    best_of: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    # the end of an answer
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=128)] | None = None
    bad_words: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=128)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(max_length=4096)] | None = None
    include_stop_str_in_output: bool | None = None
    # prompt and text
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    chat_template_kwargs: Annotated[JsonObject, AfterValidator(_arguments)] | None = None
    continue_final_message: bool | None = None
    documents: Annotated[list[JsonObject], Field(max_length=128)] | None = None
    echo: bool | None = None
    include_reasoning: bool | None = None
    prompt_logprobs: Annotated[int, Field(ge=-1, le=20)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    suffix: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    # OpenAI's, of which models of other makers know few
    audio: JsonObject | None = None
    function_call: Word | JsonObject | None = None
    functions: Annotated[list[JsonObject], Field(max_length=128)] | None = None
    modalities: Annotated[list[Word], Field(max_length=8)] | None = None
    moderation: JsonObject | None = None
    prediction: JsonObject | None = None
    reasoning_effort: Word | None = None
    verbosity: Word | None = None
    web_search_options: JsonObject | None = None
    # the user, and how the answer is cached, kept and paid
    cache_control: JsonObject | None = None
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    prompt_cache_key: Key | None = None
    prompt_cache_options: JsonObject | None = None
    prompt_cache_retention: Word | None = None
    service_tier: Word | None = None
    store: bool | None = None


NAMES: Final = frozenset(FurtherFields.model_fields)

_NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "early_stopping": (False,),
    "echo": (False,),
    "function_call": ("none", ""),
    "functions": ([],),
    "ignore_eos": (False,),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1.0,),
    "logit_bias": ({},),
    "min_p": (0.0,),
    "min_tokens": (0,),
    "modalities": ([], ["text"]),
    "prediction": ({},),
    "priority": (0,),
    "prompt_cache_key": ("",),
    "prompt_cache_options": ({},),
    "repetition_penalty": (1.0,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "service_tier": ("auto", "default"),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_token_ids": ([],),
    "store": (False,),
    "suffix": ("",),
    "top_k": (-1, 0),
    "truncate_prompt_tokens": (-1,),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
}
"""By parameter: the values that request nothing, besides null. Those of the endpoints' own defaults are in _OWN."""
_OWN: Final[Mapping[str, Mapping[str, bool]]] = {
    "chat": {"add_special_tokens": False},
    "completions": {"add_special_tokens": True},
}


@dataclass(frozen=True, slots=True)
class FieldRules:
    """What is done with unknown parameters, and with what callers repeat of earlier answers."""

    unknown: Literal["reject", "drop", "pass"] = "reject"
    echoes: bool = False
    """Some pool is sent back what its answers had besides text."""
    cache_control: bool = False
    """Some pool takes marks of what to cache."""


def rules_of(config: Config) -> FieldRules:
    """The rules of a config."""
    engines = [pool.engine for pool in config.pools.values() if isinstance(pool.engine, OpenAISettings)]
    return FieldRules(
        config.server.unknown_fields,
        any(engine.echoes for engine in engines),
        any("cache_control" in engine.parameters for engine in engines),
    )


def further(
    body: dict[str, Any], endpoint: Literal["chat", "completions"], check: Callable[[type[FurtherFields], Any], Part]
) -> dict[str, Any]:
    """Takes the parameters of FurtherFields out of `body`: those that request something, as checked.

    `check` validates, and raises RequestError that names the parameter.
    """
    given = {name: value for name in sorted(NAMES & body.keys()) if (value := body.pop(name)) is not None}
    if not given:
        return {}
    checked = check(FurtherFields, given)
    own = _OWN[endpoint]
    requested: dict[str, Any] = {}
    for name in given:
        value = getattr(checked, name)
        if value in _NEUTRAL.get(name, ()) or own.get(name) is value:
            continue
        if endpoint == "completions" and name in HINTS and name != "priority":
            continue  # upstreams know none of them there
        requested[name] = value
    if requested.get("best_of") == body.get("n"):
        requested.pop("best_of", None)
    return requested


def take_unknown(
    body: dict[str, Any], known: frozenset[str], elsewhere: frozenset[str], rules: FieldRules
) -> dict[str, Any]:
    """Takes what is not among the `known` names out of `body`: what of it is to be passed on, under PASSED.

    Names that mean something `elsewhere` are never passed: limits and guards would not see them here. Raises
    RequestError for them, and for what is not plain JSON.
    """
    unknown = {name: body.pop(name) for name in sorted(body.keys() - known)}
    if not unknown or rules.unknown != "pass":
        return {}
    for name, value in unknown.items():
        if name in elsewhere:
            raise UnsupportedParameter(f"{name} is not supported here: leave it out.", param=name)
        try:
            orjson.dumps(value)
        except (TypeError, orjson.JSONEncodeError):
            raise RequestError(f"{name}: {_JSON_DEPTH}.", param=name[:200], code="invalid_value") from None
    return {PASSED: unknown}
