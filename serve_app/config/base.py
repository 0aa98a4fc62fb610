"""What all settings share: frozen, no unknown keys, finite numbers; checked kinds of text; what is logged and kept."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator


class Node(BaseModel):
    """A branch of the config tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def _expanded(text: str) -> str:
    if not text.startswith("~"):
        return text
    try:
        return str(Path(text).expanduser())
    except RuntimeError:
        raise ValueError("~ stands for no home folder here: write the whole path") from None


def _named(text: str) -> str:
    if not text.strip() or not text.isprintable() or text != text.strip():
        raise ValueError("a model's name is printable text without blanks around it: write it as callers send it")
    return text


FolderOrFile = Annotated[str, AfterValidator(_expanded)]
"""A path in which `~` is the home folder."""
ModelName = Annotated[str, AfterValidator(_named)]


class TracesConfig(Node):
    """OpenTelemetry traces of requests. Where they are sent is set by OpenTelemetry's own variables (OTEL_*)."""

    enabled: bool = Field(False, description="Trace requests.")
    sample: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Share of the requests that is traced, of those whose caller has not decided it."
    )
    follow_callers: bool = Field(
        True, description="Continue the trace of a caller that sends one (traceparent), sampled as the caller says."
    )


class LogConfig(Node):
    """JSON lines on stderr of each Gateway and replica: its messages, and at a Gateway one line a request."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity of messages that is logged."
    )
    access: bool = Field(True, description="Log every request.")
    metrics: bool = Field(
        True,
        description="Count requests, for /metrics and the console; false: /metrics shows what is read at a scrape.",
    )
    content: bool = Field(
        False, description="Let log lines and traces quote requests and answers; never those of privacy class local."
    )
    traces: TracesConfig = TracesConfig()


_ORIGIN: Final = re.compile(r"https?://[^\s/*?#@]+|\*")


class CorsConfig(Node):
    """Web pages of other origins that may call the endpoint from a browser."""

    origins: tuple[str, ...] = Field(
        (), description="Such as https://app.example.com, or * for any; empty: a browser lets none."
    )
    max_age_s: Annotated[int, Field(ge=0, le=86_400)] = Field(600, description="How long a browser keeps the leave.")

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: write scheme, host and port alone, or *")
        return origins


class StoreConfig(Node):
    """The decision log."""

    path: FolderOrFile = Field("var/jethro.sqlite3", description="SQLite file; relative to the working directory.")
    batch: PositiveInt = Field(256, description="Most decisions per write.")
    flush_s: PositiveFloat = Field(0.5, description="Longest wait before a write.")
    queue: PositiveInt = Field(50_000, description="Decisions waiting for the writer; beyond it they are counted lost.")
    keep_prompts: bool = Field(False, description="Store prompts in the decision log.")
    keep_days: PositiveInt = Field(
        30, description="Days after which a decision is deleted with its feedback, and a text from a stream's journal."
    )
    keep_responses: Literal["never", "requested", "always"] = Field(
        "always",
        description="Which answers of /v1/responses are kept with their input, so that a request can continue them: "
        "those whose request says `store: true`, or all but those that say `store: false`, as in OpenAI's API. Never "
        "those of privacy class local.",
    )
    responses_days: PositiveInt = Field(
        3, description="Days after which a kept response is deleted; after keep_days at the latest."
    )
    responses_most: PositiveInt = Field(10_000, description="Most responses kept of one tenant; the oldest make room.")
    responses_bytes: PositiveInt = Field(
        268_435_456, description="Most bytes of responses kept of one tenant; the oldest make room."
    )
