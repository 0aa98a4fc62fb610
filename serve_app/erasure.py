"""Whose records are to be erased, and a memory of that without names, for records that are still on their way.

A record reaches the disk some time after its request: it waits in a Gateway's memory, or the request still runs. So an
erasure is remembered, as a salted digest with its time, and every record of a request that arrived before it is dropped
where it would be written.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import orjson

_DIGEST_BYTES: Final = 16
SALT_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Selection:
    """Records that agree with every field that is not None; without any field all records.

    `user` is what a request named in `user` or in `safety_identifier`.
    """

    tenant: str | None = None
    user: str | None = None
    decision_id: str | None = None

    def digest(self, salt: bytes) -> bytes:
        """Identifies the selection, without naming anybody to a reader who cannot guess the name."""
        named = orjson.dumps([self.tenant, self.user, self.decision_id])
        return hashlib.blake2b(named, digest_size=_DIGEST_BYTES, salt=salt).digest()


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose a record is: its decision, tenant, users, and the arrival of its request in unix seconds."""

    decision_id: str
    tenant: str | None
    users: tuple[str, ...]
    created_s: float

    def selections(self) -> Iterable[Selection]:
        """Every selection that this record is in."""
        for tenant in {None, self.tenant}:
            for user in {None, *self.users}:
                yield Selection(tenant, user)
                yield Selection(tenant, user, self.decision_id)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A remembered erasure: of records whose request arrived at `before_s` or earlier, unix seconds."""

    salt: bytes
    digest: bytes
    before_s: float


class ErasureLog:
    """Erasures in memory. Cheap while no record is as old as the newest of them."""

    def __init__(self, known: Iterable[Erasure] = ()) -> None:
        self._before_s: dict[bytes, dict[bytes, float]] = {}
        self._newest_s = -math.inf
        for erasure in known:
            self.add(erasure)

    def add(self, erasure: Erasure) -> None:
        """Remember one more."""
        known = self._before_s.setdefault(erasure.salt, {})
        known[erasure.digest] = max(erasure.before_s, known.get(erasure.digest, -math.inf))
        self._newest_s = max(self._newest_s, erasure.before_s)

    def covers(self, origin: Origin) -> bool:
        """Whether a record must not be written any more."""
        if origin.created_s > self._newest_s:
            return False
        selections = list(origin.selections())
        return any(
            known.get(selection.digest(salt), -math.inf) >= origin.created_s
            for salt, known in self._before_s.items()
            for selection in selections
        )
