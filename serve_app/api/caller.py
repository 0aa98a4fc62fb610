"""Who sent a request: its id and tenant, put into the ASGI scope by the Edge."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

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
