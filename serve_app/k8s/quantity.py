"""Kubernetes' quantities as numbers."""

import re
from decimal import Decimal

_FORM = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi|)$")
_FACTORS = {"": Decimal(1), "m": Decimal("0.001")}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTP", 1)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", 1)}


def quantity(value: object) -> float | None:
    """`500m` is 0.5 and `4Gi` is 4 × 2**30; None if it is no quantity."""
    found = _FORM.match(str(value))
    return None if found is None else float(Decimal(found[1]) * _FACTORS[found[2]])
