"""Bearer keys: which tenant a request belongs to."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from serve_app.errors import AuthenticationFailed


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
