"""Unguessable ids, a few hundred for one call to the system's random source."""

import os
from typing import Final

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
