"""Who sent a request: its id and tenant, put into the ASGI scope by the Edge.

Unguessable ids, a few hundred for one call to the system's random source.

Bearer keys: which tenant a request belongs to.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from serve_app.errors import AuthenticationFailed

CALLER: Final = "jethro.caller"
_LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Caller:
    """`tenant` is None where no keys are set or the route is open."""

    request_id: str
    tenant: str | None


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The caller's x-request-id if it is short visible ASCII."""
    for name, value in headers:
        if name == b"x-request-id":
            if 0 < len(value) <= _LONGEST_ID and value.isascii():
                text = value.decode("ascii")
                if text.isprintable() and " " not in text:
                    return text
            break
    return None


_BYTES: Final = 12
_AT_ONCE: Final = 256


class Ids:
    """Makes ids of 24 hexadecimal digits. For one thread."""

    def __init__(self) -> None:
        self._digits = ""
        self._at = 0

    def new(self) -> str:
        """An id never given before."""
        if self._at == len(self._digits):
            self._digits, self._at = os.urandom(_BYTES * _AT_ONCE).hex(), 0
        start, self._at = self._at, self._at + 2 * _BYTES
        return self._digits[start : self._at]


class Keys:
    """The callers' keys, kept as digests. Every key is compared at every request, in constant time."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """`keys` maps tenant to key."""
        self._digests = [(tenant, _digest(key.encode())) for tenant, key in keys.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def tenant(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """The tenant of a request by its ASGI headers; None if there are no keys. Raises AuthenticationFailed."""
        if not self._digests:
            return None
        given = _digest(_bearer(headers))
        found: str | None = None
        for tenant, digest in self._digests:
            if hmac.compare_digest(digest, given):
                found = tenant
        if found is None:
            raise AuthenticationFailed("Incorrect API key: send a valid one as `Authorization: Bearer <key>`.")
        return found


def _bearer(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            if scheme.lower() == b"bearer" and key.strip():
                return key.strip()
    raise AuthenticationFailed("No API key given: send it as `Authorization: Bearer <key>`.", code="missing_api_key")


def _digest(key: bytes) -> bytes:
    """Of equal length whatever the key, so that a comparison tells nothing of it."""
    return hashlib.sha256(key).digest()
