"""Settings of guards: a chain of checks of requests and answers, cheap ones first, each with its own action."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from serve_app.config.base import FolderOrFile, Node

GuardKind = Literal["patterns", "personal_data", "secrets", "injection", "classifier"]
TextSource = Literal["input", "tool", "quoted", "output"]
Action = Literal["warn", "redact", "escalate", "block"]
_NAME = r"^[a-z][a-z0-9_]{0,39}$"


class PatternConfig(Node):
    """Words or a regular expression of one category."""

    category: Annotated[str, Field(pattern=_NAME)] = Field(description="Name that metrics and answers show.")
    words: tuple[Annotated[str, Field(min_length=2, max_length=200)], ...] = Field(
        (), description="Words or phrases, whole and in any case."
    )
    pattern: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(
        None, description="Regular expression of bounded width: {0,40} instead of * or +."
    )
    locales: tuple[str, ...] | None = Field(
        None, description="Locales of guards.locales in which it counts; null: all."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.words) == (self.pattern is not None):
            raise ValueError("give words or a pattern, one of them")
        return self


class GuardConfig(Node):
    """One check of the chain."""

    name: Annotated[str, Field(pattern=_NAME)] = Field(description="Name that metrics and answers show.")
    kind: GuardKind = Field(
        description="patterns: your own; personal_data and secrets: by placement.personal_data; injection: "
        "instructions in content that is data; classifier: a pool's model."
    )
    texts: Annotated[tuple[TextSource, ...], Field(min_length=1)] = Field(
        ("input", "output"),
        description="input: the caller's messages; tool: results of tools; quoted: fenced, quoted or tagged text in a "
        "message that requests a summary, a rewrite or a translation; output: the answer.",
    )
    action: Action = Field(
        "block", description="escalate: block, but a strategy that escalates may ask the next model first."
    )
    enabled: bool = Field(True, description="false: switched off.")
    categories: tuple[str, ...] | None = Field(None, description="Only these of its categories; null: all.")
    pools: tuple[str, ...] | None = Field(None, description="Only answers of these pools; null: of all.")
    patterns: tuple[PatternConfig, ...] = Field((), description="Of kind patterns.")
    pool: str | None = Field(None, description="Of kind classifier: the pool whose model judges.")
    instruction: Annotated[str, Field(max_length=4000)] | None = Field(
        None, description="Of kind classifier: what is unsafe, in words; null: the categories of the taxonomy."
    )
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Of kind classifier: unsafe from this probability on, where the pool has log-probabilities."
    )
    timeout_s: PositiveFloat = Field(5.0, description="Of kind classifier: longest wait for the verdict.")
    on_error: Literal["block", "pass"] = Field(
        "block",
        description="Of kind classifier: what happens without a verdict, or where the pool may not see the text.",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "patterns") != bool(self.patterns):
            raise ValueError(f"{self.name}: patterns belong to kind patterns, which needs some")
        if (self.kind == "classifier") != (self.pool is not None):
            raise ValueError(f"{self.name}: pool belongs to kind classifier, which needs one")
        if self.kind == "classifier" and self.action == "redact":
            raise ValueError(f"{self.name}: a classifier finds no place to redact: use block, warn or escalate")
        if self.action == "redact" and "quoted" in self.texts:
            raise ValueError(f"{self.name}: quoted text is part of a message: redact on input, or block")
        if self.pools is not None and self.texts != ("output",):
            raise ValueError(f"{self.name}: pools is of the answer's pool: set texts: [output]")
        return self


class GuardsConfig(Node):
    """Checks of requests and answers. Without a chain there are none."""

    chain: tuple[GuardConfig, ...] = Field((), description="The checks; cheap kinds run first, whatever the order.")
    policy: FolderOrFile | None = Field(
        None, description="A YAML file with further checks, a list in the form of chain, so that it has its own owner."
    )
    locales: tuple[str, ...] = Field(("en",), description="Locales of the callers; patterns of others do not count.")
    refusal: Literal["error", "answer"] = Field(
        "error",
        description="A blocked request: error is status 400 with code content_filter, as OpenAI and Azure send it; "
        "answer is status 200 with the message and finish_reason content_filter.",
    )
    message: str = Field(
        "This request or its answer was stopped by a rule of this endpoint.",
        description="What the caller receives instead.",
    )
    characters: PositiveInt = Field(
        200_000, description="Most characters of a request that are checked; a longer one is refused."
    )

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [guard.name for guard in self.chain]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"chain has two guards named {twice!r}: rename one")
        return self
