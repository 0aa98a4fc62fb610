"""The fitted cascade router as it serves: which model is first, and after each answer which is next, or whose answer.

Plain arithmetic in numpy, no wait and no state: the answers so far are passed in at each call. Calls, deadlines and
failures are the strategy's. Saved as a folder of `routing.json` and `estimates.npz`, read strictly; it holds no code.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats, read_arrays
from serve_app.cascade.base import Signal
from serve_app.cascade.routing.estimates import (
    MOST_MODELS,
    CascadeEstimates,
    Observations,
    PromptHead,
    agreement,
    columns_of,
)
from serve_app.cascade.routing.mixing import Mixture
from serve_app.cascade.routing.supermodels import STOP
from serve_app.cascade.routing.walk import NextModelPolicy, best_answer
from serve_app.cascade.signals.calibration import ConfidenceCurve
from serve_app.cascade.signals.specs import signal_of, spec_of
from serve_app.errors import ConfigError, reading, writing
from serve_app.files import replacing, write_whole
from serve_app.learning.encoder import saved_encoder
from serve_app.learning.saved_folder import check_folder, read_json


@dataclass(frozen=True, slots=True)
class Prompt:
    """A query as the estimates see it. `coin`: a uniform draw in [0, 1), one for the whole query.

    `vector`: the encoder's, shape [d], for a router with an encoder.
    """

    characters: int
    coin: float
    vector: NDArray[np.floating] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that was given: raw signal (nan where undefined), text, and what it has cost in US dollars."""

    pool: str
    signal: float
    text: str
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Advice:
    """Call `ask` next; or, if that is None, stop and take the answer of `take` (None only if no model can be called).

    `take` is the best answer so far in any case. `quality`: estimated probability of being right of every pool's
    answer, `cost_usd`: of every pool not called yet.
    """

    ask: str | None
    take: str | None
    quality: Mapping[str, float]
    cost_usd: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CascadeRouter:
    """Cascade routing (Dekoninck, Baader & Vechev 2025) over `pools`, fitted to a mean cost a query.

    `signals[pool]` is of that pool's answers; None: the raw confidence it was fitted on. `move`: see `fit_moves`.
    `encoder` with its digest, None where prompts are not read. `expected`: cross-fitted figures at the fit.
    """

    pools: tuple[str, ...]
    estimates: CascadeEstimates
    move: Floats
    mixture: Mixture
    signals: Mapping[str, Signal | None] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    encoder: str | None = None
    encoder_digest: str | None = None
    version: str = ""
    expected: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def start(self, prompt: Prompt, without: Sequence[str] = ()) -> Advice:
        """Before any answer. `without`: pools that cannot be called."""
        return self.after(prompt, (), without)

    def after(self, prompt: Prompt, answers: Sequence[Answered], without: Sequence[str] = ()) -> Advice:
        """After the answers so far, in any order. Raises ValueError for an unknown pool or one that answers twice."""
        called, seen = self._seen(prompt, answers)
        rows = self.estimates.evidence(seen)
        quality = self.estimates.qualities(called, rows)
        cost = self.estimates.costs(called, seen)
        policy = self.mixture.policy(prompt.coin)
        chosen = STOP
        allowed = (2 ** len(self.pools) - 1) & ~self._mask(without)
        if usable := allowed & policy.models or (0 if called else allowed):
            chosen = int(policy.next(called, quality, cost, self.move[called], usable)[0])
        take = None
        if answers:
            before = self.estimates.qualities(0, rows)
            take = self.pools[int(best_answer(np.array([called]), quality, before, policy.margin)[0])]
        estimated = dict(zip(self.pools, quality[0].tolist(), strict=True))
        costs = {pool: float(cost[0, m]) for m, pool in enumerate(self.pools) if not called >> m & 1}
        return Advice(None if chosen == STOP else self.pools[chosen], take, estimated, costs)

    def _seen(self, prompt: Prompt, answers: Sequence[Answered]) -> tuple[int, Observations]:
        k = len(self.pools)
        called = self._mask([answer.pool for answer in answers])
        if called.bit_count() < len(answers):
            raise ValueError(f"a pool answers twice: {', '.join(answer.pool for answer in answers)}")
        signal, cost, texts = np.full((1, k), np.nan), np.zeros((1, k)), [""] * k
        for answer in answers:
            at = self.pools.index(answer.pool)
            signal[0, at], cost[0, at], texts[at] = answer.signal, answer.cost_usd, answer.text
        vectors = None if prompt.vector is None else np.asarray(prompt.vector, dtype=np.float64)[None]
        return called, Observations(signal, agreement(texts)[None], cost, np.array([float(prompt.characters)]), vectors)

    def _mask(self, pools: Sequence[str]) -> int:
        found = 0
        for pool in pools:
            if pool not in self.pools:
                raise ValueError(f"no pool {pool!r}: the router has {', '.join(self.pools)}")
            found |= 1 << self.pools.index(pool)
        return found


FILE: Final = "routing.json"
ARRAYS: Final = "estimates.npz"
FORMAT: Final = 1
KIND: Final = "cascade_routing"
_AGAIN = "fit the cascade router again"


def version_of(router: CascadeRouter) -> CascadeRouter:
    """The same router under its version: `cascade-routing-` and a hash of all that decides."""
    return replace(router, version=_version(_body(router), _arrays(router)))


def save_routing(router: CascadeRouter, folder: Path) -> None:
    """Write the folder; routing.json comes last, so that a cut is noticed. Raises ConfigError where it cannot."""
    body = _body(router) | {"version": router.version, "expected": dict(router.expected), "data": dict(router.data)}
    with writing(folder, "give a folder that can"):
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / ARRAYS) as part, part.open("wb") as out:
            np.savez(out, **_arrays(router))
        write_whole(folder / FILE, (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())


def load_routing(folder: Path) -> CascadeRouter:
    """The router saved there; an encoder's digest is checked where one is used. Raises ConfigError with what to do."""
    path = folder / FILE
    body = read_json(path, kind=KIND, version=FORMAT, remedy=_AGAIN)
    check_folder(folder)
    with reading(folder / ARRAYS, _AGAIN, ValueError):
        arrays = read_arrays(folder / ARRAYS)
    with reading(folder, _AGAIN, KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        found = _router(body, arrays, path)
    if found.version != (right := _version(_body(found), _arrays(found))):
        raise ConfigError(f"{path}: version is {found.version!r}, but the content is {right}: it was changed; {_AGAIN}")
    if found.encoder is not None:
        saved_encoder(path, found.encoder, str(found.encoder_digest))
    return found


def _body(router: CascadeRouter) -> dict[str, Any]:
    """All that decides, except the arrays."""
    mixture = router.mixture
    return {
        "kind": KIND,
        "format": FORMAT,
        "pools": list(router.pools),
        "models": list(router.models),
        "signals": {p: None if (s := router.signals.get(p)) is None else spec_of(s) for p in router.pools},
        "encoder": router.encoder,
        "encoder_digest": router.encoder_digest,
        "mixture": {"cheap": _policy_spec(mixture.cheap), "dear": _policy_spec(mixture.dear), "share": mixture.share},
        "prompt_bias": router.estimates.prompts.bias,
    }


def _arrays(router: CascadeRouter) -> dict[str, Any]:
    estimates = router.estimates
    found: dict[str, Any] = {name: getattr(estimates, name) for name in ("quality", "cost", "mean_cost")}
    found |= {"move": router.move, "prompt_weights": estimates.prompts.weights}
    for m, curve in enumerate(estimates.curves):
        found |= {f"values_{m}": curve.values, f"log_odds_{m}": curve.log_odds}
    return found


def _policy_spec(policy: NextModelPolicy) -> dict[str, Any]:
    """JSON has no infinity. A margin of 0 is left out, as in artefacts from before there was one."""
    spec = asdict(policy)
    spec |= {key: "inf" for key in ("price", "later") if not isfinite(spec[key])}
    return spec if policy.margin else {key: value for key, value in spec.items() if key != "margin"}


def _router(body: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path) -> CascadeRouter:
    pools = tuple(str(p) for p in body["pools"])
    _check_arrays(arrays, len(pools))
    if (body["encoder"] is None) != (len(arrays["prompt_weights"]) == 0):
        raise ValueError("prompts are read with an encoder, and with none they have no weights")
    curves = tuple(ConfidenceCurve(arrays[f"values_{m}"], arrays[f"log_odds_{m}"]) for m in range(len(pools)))
    prompts = PromptHead(arrays["prompt_weights"], float(body["prompt_bias"]))
    estimates = CascadeEstimates(curves, prompts, *(arrays[name] for name in ("quality", "cost", "mean_cost")))
    mixture, specs = body["mixture"], body["signals"]
    return CascadeRouter(
        pools=pools,
        estimates=estimates,
        move=arrays["move"],
        mixture=Mixture(_policy(mixture["cheap"]), _policy(mixture["dear"]), float(mixture["share"])),
        signals={p: None if specs[p] is None else signal_of(specs[p], f"{path}: signals.{p}") for p in pools},
        models=tuple(str(m) for m in body["models"]),
        encoder=body["encoder"],
        encoder_digest=body["encoder_digest"],
        version=str(body["version"]),
        expected={str(k): float(v) for k, v in body["expected"].items()},
        data=dict(body["data"]),
    )


def _check_arrays(arrays: Mapping[str, NDArray[Any]], k: int) -> None:
    """Raises ValueError naming the array."""
    if not 2 <= k <= MOST_MODELS:
        raise ValueError(f"pools are {k}, not 2 to {MOST_MODELS}")
    shapes = {"quality": (2**k, k, columns_of(k)), "cost": (2**k, k, 2 + k), "mean_cost": (k,), "move": (2**k, k, k)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name} has shape {arrays[name].shape}, not {shape}")
    for m in range(k):
        values, odds = arrays[f"values_{m}"], arrays[f"log_odds_{m}"]
        if values.ndim != 1 or values.shape != odds.shape or (np.diff(values) <= 0).any():
            raise ValueError(f"values_{m} must rise, with one of log_odds_{m} each")
    for name, array in arrays.items():
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"{name} must hold finite 64-bit numbers")


def _policy(spec: Mapping[str, Any]) -> NextModelPolicy:
    price, later, spread = (float(spec[key]) for key in ("price", "later", "spread"))
    margin = float(spec.get("margin", 0.0))
    found = NextModelPolicy(price, later, spread, spec["form"], int(spec["models"]), margin)
    if found.form not in ("any", "prefix", "single") or not (found.price >= 0 and found.later >= 0):
        raise ValueError(f"a policy of form {found.form!r}, price {found.price} and later {found.later}")
    if not (isfinite(found.spread) and found.spread >= 0):
        raise ValueError(f"spread is {found.spread}")
    if not 0.0 <= found.margin <= 1.0:
        raise ValueError(f"margin is {found.margin}")
    return found


def _version(body: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = blake2b(json.dumps(body, sort_keys=True).encode("utf-8", "surrogatepass"), digest_size=5)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return f"cascade-routing-{digest.hexdigest()}"
