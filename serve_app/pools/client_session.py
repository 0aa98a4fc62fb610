"""The HTTP client of a pool: one aiohttp session for all its addresses, with or without a proxy.

What is sent and how answers are read is `upstream.py`'s.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

_KEEP_ALIVE_S: Final = 4.0  # below the 5 s after which uvicorn (and so vLLM) closes idle connections
_DNS_CACHE_S: Final = 10
_MOST_HEADER_BYTES: Final = 64 * 1024
_HEAD_END: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy through which upstreams are reached; the password is in no repr."""

    url: str
    user: str = ""
    password: str = field(default="", repr=False)


def client_session(proxy: Proxy | None = None) -> aiohttp.ClientSession:
    """A session to be shared by all upstreams of a pool: no cookies, no proxy but this, no bound on connections.

    Must be called inside the event loop that will use it; the caller closes it.
    """
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ttl_dns_cache=_DNS_CACHE_S)
    connector._factory = partial(ResponseProtocol, loop=asyncio.get_running_loop())  # type: ignore[assignment]
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        timeout=aiohttp.ClientTimeout(total=None),
        max_line_size=_MOST_HEADER_BYTES,
        max_field_size=_MOST_HEADER_BYTES,
        proxy=URL(proxy.url).with_user(proxy.user or None).with_password(proxy.password or None) if proxy else None,
        trust_env=False,
    )


class ResponseProtocol(ResponseHandler):
    """The protocol of one connection. An answer that is not valid HTTP fails for the reader of its body.

    aiohttp reports an error inside a body to the reader of the next head: that of the body would wait until its
    timeout. An error in the packet that holds the head would take the head with it, so that TCP would decide what the
    caller gets.
    """

    def data_received(self, data: bytes) -> None:
        """Parse the head alone, then the rest."""
        between = self._payload is None or self._payload.is_eof()  # the answers of one connection
        end = data.find(_HEAD_END) + len(_HEAD_END) if between else 0
        if len(_HEAD_END) <= end < len(data):
            super().data_received(data[:end])
            if self.exception() is not None:
                return
            data = data[end:]
        super().data_received(data)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """An error of HTTP is also for the reader of a body that is not complete; a lost connection is already."""
        payload = self._payload
        super().set_exception(exc, *cause)
        if payload is not None and isinstance(exc, HttpProcessingError):
            # A reader that was woken by the end of a chunk looks for data and waits again before it sees this.
            self._loop.call_soon(_break, payload, exc)


def _break(payload: aiohttp.StreamReader, cause: BaseException) -> None:
    if not payload.is_eof() and payload.exception() is None:
        payload.set_exception(aiohttp.ClientPayloadError("the body is not valid HTTP"), cause)
