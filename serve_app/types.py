"""The values that travel between the parts, frozen and slotted; nothing here knows HTTP, Ray or an engine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

from serve_app.images import Image, Session, TextOrImage, text_of

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Endpoint = Literal["chat", "completions", "embeddings"]

_Routed = Literal["score_above", "score_below", "no_score", "utility", "full", "session", "unable", "fallback"]
_Cascaded = Literal["accepted", "unchecked", "escalated", "best"]
_Streamed = Literal["confident", "deferred", "explored", "audit", "warm_up"]
Cause = Literal["named", "only_pool", _Routed, _Cascaded, "picked", "fused", _Streamed, "guard", "other"]
"""Why a pool answers, in one word, for counting: `Decision.reason` says it in full.

named: the request names the model; only_pool: there is no other. score_above, score_below: the router's score against
the threshold; no_score: the router gave none; utility: highest of all pools; full: the strong pool is, and a borderline
query goes to the weak one; session: the pool that has the conversation, by routing.stickiness; unable: the first choice
does not support the query or may not see it; fallback: it failed. accepted: a cascade is sure of its first answer;
unchecked: nothing is to be checked; escalated: earlier answers were rejected; best: none convinced, this one most.
picked, fused: of several answers. confident, deferred, explored, audit, warm_up: of streams. guard: a guard stopped it.
"""
Privacy = Literal["local", "private", "any"]
"""Class of a request, the strictest first: pools of which places may see it."""
Place = Literal["local", "private", "public"]
"""Who runs a pool: this cluster, another machine of ours, or another party."""

REQUEST_ID: Final[ContextVar[str | None]] = ContextVar("jethro_request_id", default=None)
"""The id, as its caller has seen it, of the request that the current task works for: log lines carry it."""
DECISION_ID: Final[ContextVar[str | None]] = ContextVar("jethro_decision_id", default=None)
"""The id of the decision on that request, once it has one: log lines carry it too."""
REACH: Final[ContextVar[frozenset[str] | None]] = ContextVar("jethro_reach", default=None)
"""The pools that the current task's request may reach, None: any; it also holds for queries that are made for it."""


PROMPT_IDS: Final = "token_ids"
"""In `extra` of the message that is the prompt of `completions`: its token ids, for the one model that knows them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Text parts are already joined; `extra` holds tool_calls, tool_call_id and name as received.

    `parts`: texts and images in their order, where there is an image; `content` is then their texts, a line each. Make
    such a turn by `of`, and change its text by `rewritten`.
    """

    role: Role
    content: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[TextOrImage, ...] = ()

    def __post_init__(self) -> None:
        # a text that was changed here and not there would reach a model as it was before
        if self.parts and self.content != text_of(self.parts):
            raise ValueError("the content of a message is the text of its parts: change both, by `rewritten`")

    @classmethod
    def of(cls, role: Role, parts: Sequence[TextOrImage], extra: Mapping[str, Any] | None = None) -> "Message":
        """A turn of these parts; the parts themselves are kept only where one is an image."""
        seen = any(part.__class__ is Image for part in parts)
        return cls(role, text_of(parts), {} if extra is None else extra, tuple(parts) if seen else ())

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images, in their order."""
        return tuple([part for part in self.parts if isinstance(part, Image)]) if self.parts else ()

    def rewritten(self, change: Callable[[str], str], extra: Mapping[str, Any] | None = None) -> "Message":
        """With its text changed, and `extra` if that is given. Images stay between the texts that they were between.

        `change` gets the whole text, and with images each part as well; if the parts come to another text than the
        whole, that of the whole is put before the images.
        """
        content, extra = change(self.content), self.extra if extra is None else extra
        parts: tuple[TextOrImage, ...] = tuple([p if isinstance(p, Image) else change(p) for p in self.parts])
        if parts and text_of(parts) != content:
            parts = (content, *self.images)
        return Message(self.role, content, extra, parts)

    def to_openai(self) -> dict[str, Any]:
        """The turn as OpenAI's message object."""
        if not self.parts:
            return {"role": self.role, "content": self.content, **self.extra}
        parts = [p.to_openai() if isinstance(p, Image) else {"type": "text", "text": p} for p in self.parts]
        return {"role": self.role, "content": parts, **self.extra}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample, in OpenAI's terms. `max_tokens=None` means: as far as the context allows."""

    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: bool = False
    top_logprobs: int = 0
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """By which name the caller gave it: some upstreams refuse the other."""
    stated: tuple[Literal["temperature", "top_p"], ...] = field(default=(), compare=False)
    """Those that the caller set although they have OpenAI's default: an engine's own default does not replace them."""

    def with_defaults(self, temperature: float | None, top_p: float | None) -> "Sampling":
        """The same with a model's own defaults, None for OpenAI's, where the caller set neither."""
        if self.temperature != 1.0 or self.top_p != 1.0 or self.stated:
            return self
        return replace(self, temperature=1.0 if temperature is None else temperature, top_p=top_p or 1.0)


@dataclass(frozen=True)
class Query:
    """A caller's request. For `completions` the prompt is the one user message and no chat template applies.

    Several prompts of one request are a user message each until they are taken apart: strategies and pools see one.
    For `embeddings` each input is a user message; token ids are in `extra`, under `input`.
    """

    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    endpoint: Endpoint = "chat"
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    """OpenAI's newer name of the caller's user; it stays with the Gateway, upstreams receive `user`."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    tenant: str | None = None
    adapter: str | None = None
    task: str | None = None
    """The caller's hint at the task, for orchestration; it stays with the Gateway."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further parameters for engines that support them (guided decoding and more), see wire/parameters.py."""
    echoes: bool = False
    """Its messages or tools hold keys of ECHOED there, which most pools are not sent."""
    privacy: Privacy = "any"
    reach: frozenset[str] | None = None
    """Names of the pools that may see the query; None: any. Set once, before a strategy runs, and never widened."""
    session: Session | None = None
    """Where it continues a conversation that may stick to a pool."""
    detected: frozenset[str] = frozenset()
    """Categories of personal data that were found in it, where they were looked for."""

    @cached_property
    def text(self) -> str:
        """The text that routers read: the whole conversation, one turn per line."""
        return "\n".join(m.content for m in self.messages)

    @property
    def scored(self) -> "Query":
        """What routers score of it: the same at every turn of a tool loop, so that all Gateways decide alike."""
        session = self.session
        if session is None or not session.start:
            return self
        return replace(self, messages=self.messages[: session.start], session=None)

    @cached_property
    def images(self) -> tuple[Image, ...]:
        """All images of the conversation, in their order."""
        return tuple([image for m in self.messages if m.parts for image in m.images])

    @property
    def image_tokens(self) -> int:
        """An estimate of the tokens that the images are read as, see `Image.tokens`; of text alone it is 0."""
        return sum(image.tokens for image in self.images)

    @property
    def stays_unrecorded(self) -> bool:
        """Whether nothing of its content or its answer may be kept: in no log, store, journal or statistic."""
        return self.privacy == "local"

    def may_reach(self, pool: str) -> bool:
        """Whether the pool of this name may see the query."""
        return self.reach is None or pool in self.reach

    @property
    def users(self) -> tuple[str, ...]:
        """The users that the request names, none, one or two."""
        return tuple({u: None for u in (self.user, self.safety_identifier) if u is not None})

    @property
    def prompt(self) -> str:
        """The raw prompt of a `completions` query; empty if it is given as token ids."""
        return self.messages[-1].content

    @property
    def prompt_ids(self) -> Sequence[int]:
        """The token ids of a `completions` query's prompt that is given so; empty for text."""
        ids: Sequence[int] = self.messages[-1].extra.get(PROMPT_IDS, ())
        return ids


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A sampled token with its log-probability (natural log) and the most likely alternatives."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Both together."""
        return self.prompt_tokens + self.completion_tokens

    def to_openai(self) -> dict[str, int]:
        """OpenAI's usage object."""
        counted = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {**counted, "total_tokens": self.total_tokens}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one choice, from an engine. The last chunk of each choice carries `finish_reason`.

    The very last chunk of a stream (over all choices) carries `usage` for the whole request.
    """

    index: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    usage: Usage | None = None
    stop_reason: str | None = None
    """The stop sequence that ended the choice, where one did and the engine says which."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per million tokens. `adapters`: by adapter, what a token costs with it as a multiple of one without;
    one that is not there costs nothing more. The Gateway keeps them as its registry has them.
    """

    input_usd_per_million: float = 0.0
    output_usd_per_million: float = 0.0
    adapters: dict[str, float] = field(default_factory=dict, compare=False)

    def cost_usd(self, usage: Usage, adapter: str | None = None) -> float:
        """The cost of this usage, in US dollars."""
        read = usage.prompt_tokens * self.input_usd_per_million
        plain = (read + usage.completion_tokens * self.output_usd_per_million) / 1e6
        return plain if adapter is None else plain * self.adapters.get(adapter, 1.0)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine supports; a request that needs more is refused with status 400.

    `vision`: its model reads images. `embeddings`: it embeds texts, and answers nothing else.
    """

    logprobs: bool = True
    guided: bool = False
    tools: bool = False
    adapters: bool = False
    max_context_tokens: int | None = None
    vision: bool = False
    embeddings: bool = False
    image_urls: bool = False
    """It may be handed URLs of images, which it fetches."""
    parameters: frozenset[str] = frozenset()
    """Parameters beyond those above that it honours, by their keys in `Query.extra`; see wire/parameters.py."""
    echoes: bool = False
    unknown: bool = False
    """It is sent what it said besides its text, such as thoughts; and parameters that are unknown here."""


@dataclass(frozen=True, slots=True)
class Step:
    """One model call made for a decision. `wasted`: its tokens are in no answer; `failed`: there is no answer."""

    pool: str
    reason: str
    usage: Usage = Usage()
    cost_usd: float = 0.0
    latency_ms: float = 0.0
    wasted: bool = False
    failed: bool = False


def total_usage(steps: Sequence[Step]) -> Usage:
    """Tokens of all steps together."""
    if len(steps) == 1:
        return steps[0].usage
    return Usage(sum(s.usage.prompt_tokens for s in steps), sum(s.usage.completion_tokens for s in steps))


@dataclass(frozen=True, slots=True)
class Shown:
    """Where a Decision's field appears. Header, body, log line, stored column, and JSON schema are made from this."""

    description: str
    """For the OpenAPI document."""
    name: str = ""
    """Key in JSON and column in the store, if other than the attribute's name."""
    header: str = ""
    """Response header, after `x-jethro-`; left out while the value is None or empty."""
    logged: str = ""
    """Key in the request log."""
    detail: bool = False
    """Shown with the whole decision (/v1/route, /v1/decisions), not in every answer's `jethro` object."""
    decimals: int | None = None
    """Rounds the value in answers and the log; the store keeps all digits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen and why. The same record feeds headers, body, log, metrics, store and training.

    A field is declared here and nowhere else: its annotation says where it is shown. Without one it stays internal.
    """

    id: Annotated[str, Shown("Names the decision.", name="decision_id", header="decision-id", logged="decision_id")]
    strategy: Annotated[str, Shown("The strategy that decided.", header="strategy", logged="strategy")]
    pool: Annotated[str, Shown("The pool that answers.", header="pool", logged="pool")]
    model: Annotated[str, Shown("The model of that pool.", header="model", logged="answered_by")]
    reason: Annotated[str, Shown("Why this pool, in words.")]
    score: Annotated[float | None, Shown("The router's score, in [0, 1].", header="score", logged="score")] = None
    threshold: Annotated[float | None, Shown("The threshold in force.", header="threshold", logged="threshold")] = None
    router: Annotated[str | None, Shown("The router that scored.")] = None
    policy_version: Annotated[str, Shown("Version of router or cascade, and threshold.", header="policy")] = ""
    decision_ms: Annotated[float, Shown("Time of the decision, in ms.", logged="decision_ms", decimals=3)] = 0.0
    expected: Annotated[
        Mapping[str, Mapping[str, float]],
        Shown("Per action: expected quality, cost (USD) and latency (ms), as far as known.", detail=True),
    ] = field(default_factory=dict)
    features: Annotated[Mapping[str, float], Shown("Top feature contributions to the score.", detail=True)] = field(
        default_factory=dict
    )
    warning: Annotated[
        str | None, Shown("Why the choice may be of no use, as with a router of other models.", header="warning")
    ] = None
    task: Annotated[str | None, Shown("The task that orchestration recognized.", header="task", logged="task")] = None
    adapter: Annotated[str | None, Shown("The adapter of that model.", header="adapter", logged="adapter")] = None
    privacy: Annotated[
        str | None, Shown("The privacy class in force: local, private or any.", header="privacy", logged="privacy")
    ] = None
    place: Annotated[str | None, Shown("Who runs the pool that answers: local, private or public.", logged="place")] = (
        None
    )
    guards: Annotated[
        Mapping[str, int], Shown("Findings of guards, by `guard.category`: how many, never what.", logged="guards")
    ] = field(default_factory=dict)
    preferred_pool: str | None = None
    """The pool preferred without regard to load, if other than `pool`: its demand counts for scaling."""
    cause: Cause = "other"
    """The reason in one word, for the metrics."""
    confidences: Mapping[str, float] = field(default_factory=dict)
    """By pool: the probability of being correct of each answer that was checked, for the metrics."""


class DecisionField(NamedTuple):
    """A shown field of Decision, resolved. `kind` is its type without None; `default` is None for a required field."""

    attribute: str
    name: str
    kind: type
    optional: bool
    default: Any
    shown: Shown


def _decision_fields() -> Iterator[DecisionField]:
    defaults = {
        f.name: f.default_factory() if f.default_factory is not MISSING else None if f.default is MISSING else f.default
        for f in fields(Decision)
    }
    for attribute, hint in get_type_hints(Decision, include_extras=True).items():
        if get_origin(hint) is not Annotated:
            continue
        declared, shown = get_args(hint)
        optional = NoneType in get_args(declared)
        kind = next(t for t in get_args(declared) if t is not NoneType) if optional else declared
        name, kind = shown.name or attribute, get_origin(kind) or kind
        yield DecisionField(attribute, name, kind, optional, defaults[attribute], shown)


DECISION_FIELDS: Final = tuple(_decision_fields())
"""In the order of the JSON body."""
