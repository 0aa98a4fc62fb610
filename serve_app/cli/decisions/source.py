"""Where decisions are read: the store's file, which an endpoint may be writing, or an endpoint by its URL."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

import typer

from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.cli.endpoint import Endpoint

LogUrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help="Read from an endpoint instead of the file of the config, with the key in JETHRO_ADMIN_KEY."
    ),
]
SinceOption = Annotated[
    str | None, typer.Option(help="From then on: 90s, 15m, 2h or 7d ago, 2026-11-30T08:00 (UTC), or unix seconds.")
]
UntilOption = Annotated[str | None, typer.Option(help="Before then; as --since.")]
TenantOption = Annotated[str | None, typer.Option(help="A tenant: a name in server.keys.")]
UserOption = Annotated[str | None, typer.Option(help="What requests named in `user` or `safety_identifier`.")]
PoolOption = Annotated[str | None, typer.Option(help="The pool that answered.")]
StrategyOption = Annotated[str | None, typer.Option(help="The strategy that decided.")]
StatusOption = Annotated[str | None, typer.Option(help="completed, failed, cancelled or route_only.")]
RouterOption = Annotated[str | None, typer.Option(help="The router that scored.")]
ModelOption = Annotated[str | None, typer.Option(help="The model that answered.")]
LatencyOption = Annotated[float | None, typer.Option(help="Requests that took at least so long, in ms.")]

Record = Mapping[str, Any]
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_PAGE: Final = 500
_SEARCH_S: Final = 600.0


class DecisionSource(Protocol):
    """Decisions by the filters of the API, given as texts by parameter."""

    def newest(self, given: Mapping[str, str], most: int) -> list[Record]:
        """The newest ones, the newest first. Raises ConfigError, UpstreamError."""

    def one(self, decision_id: str) -> Record:
        """One by its id. Raises ConfigError, UpstreamError."""

    def pages(self, given: Mapping[str, str]) -> Iterator[Sequence[Record]]:
        """All of them, oldest first, with everything that is stored. Raises ConfigError, UpstreamError."""


@dataclass(frozen=True)
class FileSource:
    """The store's file; nothing is written to it."""

    path: Path

    def newest(self, given: Mapping[str, str], most: int) -> list[Record]:
        """See DecisionSource."""
        from serve_app.store.reading import newest_decisions

        return list(newest_decisions(self.path, parsed(given), None, most, _SEARCH_S))

    def one(self, decision_id: str) -> Record:
        """See DecisionSource."""
        from serve_app.store.reading import decision_pages

        for page in decision_pages(self.path, parsed({}), decision_id):
            return page[0]
        raise ConfigError(f"{self.path}: no decision {decision_id[:100]!r}; ids are in x-jethro-decision-id")

    def pages(self, given: Mapping[str, str]) -> Iterator[Sequence[Record]]:
        """See DecisionSource."""
        from serve_app.store.reading import decision_pages

        return decision_pages(self.path, parsed(given))


@dataclass(frozen=True)
class EndpointSource:
    """The operator's routes of a running endpoint."""

    endpoint: "Endpoint"

    def newest(self, given: Mapping[str, str], most: int) -> list[Record]:
        """See DecisionSource."""
        found: list[Record] = []
        for page in self._newest_first(given, most, detail=False):
            found += page
        return found[:most]

    def one(self, decision_id: str) -> Record:
        """See DecisionSource."""
        if not _ID.fullmatch(decision_id):  # it might be another route
            raise ConfigError(f"no decision {decision_id[:100]!r}; ids are in x-jethro-decision-id")
        return self.endpoint.get(f"/v1/admin/decisions/{decision_id}", {})

    def pages(self, given: Mapping[str, str]) -> Iterator[Sequence[Record]]:
        """See DecisionSource. The endpoint sends the newest first, so that all are held in memory."""
        pages = list(self._newest_first(given, None, detail=True))
        for page in reversed(pages):
            yield page[::-1]

    def _newest_first(self, given: Mapping[str, str], most: int | None, *, detail: bool) -> Iterator[list[Record]]:
        query = {**given, "limit": str(min(most or _PAGE, _PAGE)), "detail": "true" if detail else "false"}
        left = most
        while True:
            page = self.endpoint.get("/v1/admin/decisions", query)
            yield page["data"]
            left = None if left is None else left - len(page["data"])
            if not page["has_more"] or (left is not None and left <= 0):
                return
            query["before"] = page["next"]


@contextmanager
def opened(url: str | None, path: str) -> Iterator[DecisionSource]:
    """The endpoint at the URL if there is one, else the store's file. Raises ConfigError if that is missing."""
    if url is None:
        if not Path(path).is_file():
            raise ConfigError(f"{path}: no such file; give --config with the endpoint's config, or its --url")
        yield FileSource(Path(path))
        return
    from serve_app.cli.endpoint import Endpoint
    from serve_app.config.load import ADMIN_KEY, operator_key

    endpoint = Endpoint(url, operator_key(), ADMIN_KEY)
    try:
        yield EndpointSource(endpoint)
    finally:
        endpoint.close()


def filters(**options: object) -> dict[str, str]:
    """The filters that were given, as texts by parameter. Raises ConfigError for one that is invalid."""
    given = {name: str(value) for name, value in options.items() if value is not None}
    parsed(given)
    return given


def parsed(given: Mapping[str, str]) -> Any:
    """As a DecisionFilter. Raises ConfigError naming the option."""
    from serve_app.store.filtering import DecisionFilter

    try:
        return DecisionFilter.parse(given)
    except ValueError as e:
        name, _, why = str(e).partition(":")
        raise ConfigError(f"--{name.replace('_', '-')}:{why}") from None
