"""The caller's side of an endpoint's streams."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.cli.endpoint import Endpoint


@contextmanager
def asking(url: str) -> "Iterator[Endpoint]":
    """The endpoint, closed afterwards."""
    from serve_app.cli.endpoint import Endpoint
    from serve_app.config import caller_key

    endpoint = Endpoint(url, caller_key())
    try:
        yield endpoint
    finally:
        endpoint.close()


def stream_path(name: str) -> str:
    """The route of a stream. Raises ConfigError for what cannot be a name: it might be another route."""
    from serve_app.streams.spec import is_name

    if not is_name(name):
        raise ConfigError(f"No stream {name[:60]!r}: names are of a-z, 0-9, _ and -, 48 at most")
    return f"/v1/streams/{name}"
