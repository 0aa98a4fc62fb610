"""Cascade routing as a strategy: the fitted router decides which pool is called first, which next, and when to stop.

Dekoninck, Baader & Vechev 2025 (arXiv 2410.10347); the router is `routing/router.py`. Any pool may be first and any may
be skipped. Answers are held whole; the one that the router takes, or the best so far, is returned.
"""

import asyncio
import random
from collections.abc import Mapping
from dataclasses import replace
from math import nan
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.base import Chain, Level, Needs, Signal
from serve_app.cascade.routing.router import Advice, Answered, CascadeRouter, Prompt
from serve_app.cascade.serving.run import Cascade, CascadeRun, PriorOf, no_prior
from serve_app.cascade.serving.skipping import LatencyEstimate
from serve_app.cascade.serving.stages import Stage, StageResult
from serve_app.cascade.serving.strategy import call_checked
from serve_app.cascade.signals.calibration import LogisticCalibrator
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.pools.attempt import lacking, refusal, why_skipped
from serve_app.pools.base import Pool
from serve_app.strategy import Context
from serve_app.types import Decision, Query
from serve_app.wire.answers import text_of


class RoutedCascade(Cascade):
    """Calls pools as the router advises. `pools` has every pool of the router; `rng` draws each query's coin."""

    def __init__(
        self,
        name: str,
        router: CascadeRouter,
        pools: Mapping[str, Pool],
        prior: PriorOf = no_prior,
        latency: LatencyEstimate | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Raises ConfigError for a router without a signal of served answers."""
        lacking = [pool for pool in router.pools if router.signals.get(pool) is None]
        if lacking:
            raise ConfigError(
                f"cascade.routing: the router has no signal for pool {lacking[0]}: it was fitted on recorded "
                "confidences, which no served answer has; fit it with --signals of answers (logprobs, ...), or, if the "
                "confidences are such a signal, name it in --confidence-is"
            )
        monotone = LogisticCalibrator(1.0, 0.0)  # of several choices the lowest signal counts; the router estimates
        levels = tuple(Level(pool, router.signals[pool], monotone) for pool in router.pools)
        chain = Chain(levels, router.version, router.expected, models=router.models)
        super().__init__(name, chain, pools, prior, latency or LatencyEstimate())
        self.routing = router
        self.rng = rng or random.Random()

    def new_run(self, query: Query, context: Context) -> CascadeRun:
        """A run as the router advises."""
        return _RoutedRun(self, query, context)


class _RoutedRun(CascadeRun):
    def __init__(self, cascade: RoutedCascade, query: Query, context: Context) -> None:
        super().__init__(cascade, query, context)
        self._router, self._rng = cascade.routing, cascade.rng
        self._prompt = Prompt(0, 0.0)
        self._answers: dict[str, tuple[StageResult, Answered]] = {}
        self._advice: Advice | None = None

    async def prepare(self) -> None:
        pools = self.cascade.pools
        lacks = {name: lacking(self.query, pools[name]) for name in self._router.pools}
        if all(lacks.values()):
            models = " or ".join(pools[name].model for name in self._router.pools)
            raise refusal(lacks[self._router.pools[-1]] or "", models)
        self.notes = [why_skipped(pools[name].model, lack) for name, lack in lacks.items() if lack]
        self.stages = [
            Stage(level, pools[level.pool], checked=True, needs=_needs(level.signal, pools[level.pool]))
            for level in self.cascade.chain.levels
            if level.signal is not None and not lacks[level.pool]
        ]
        started = perf_counter()
        router = next((stage.needs.prior for stage in self.stages if stage.needs.prior), None)
        if router is not None:
            self.prior = await self.cascade.prior(router, self.query)
        self._prompt = Prompt(len(self.query.text), self._rng.random(), await self._vector())
        self.prior_ms = (perf_counter() - started) * 1e3

    async def _vector(self) -> NDArray[np.float32] | None:
        if self._router.encoder is None:
            return None
        encoder = await asyncio.to_thread(load_encoder, self._router.encoder)
        vector: NDArray[np.float32] = (await asyncio.to_thread(encoder.embed, [self.query.text]))[0]
        return vector

    def next_stage(self) -> Stage | None:
        """The one that the router advises; its time counts as the decision's."""
        started = perf_counter()
        able = {stage.pool.name for stage in self.stages if stage not in self.called}
        without = sorted(set(self._router.pools) - able - set(self._answers))
        advice = self._router.after(self._prompt, [answered for _, answered in self._answers.values()], without)
        for result, _ in self._answers.values():
            assert result.confidence is not None
            probability = advice.quality[result.stage.pool.name]
            result.confidence = replace(result.confidence, probability=probability)
            result.steps[0] = replace(result.steps[0], reason=str(result.confidence))
        self.prior_ms += (perf_counter() - started) * 1e3
        self._advice = advice
        return next((stage for stage in self.stages if stage.pool.name == advice.ask), None)

    async def call(self, result: StageResult) -> None:
        await call_checked(self, result)
        if result.confidence is None:
            return
        result.confidence = replace(result.confidence, threshold=nan)
        if result.confidence.why:  # an invalid tool call is no answer
            return
        name, cost = result.stage.pool.name, sum(step.cost_usd for step in result.steps)
        text = text_of(result.reading.choices[0])
        self._answers[name] = result, Answered(name, result.confidence.value, text, cost)

    def choice(self) -> StageResult | None:
        """The answer that the router takes, or else the best so far."""
        taken = self._answers.get((self._advice and self._advice.take) or "")
        return taken[0] if taken is not None else self.best

    def planned(self) -> Decision:
        first = self.next_stage()
        assert self._advice is not None
        self.stages = [first] if first is not None else []
        found = ", ".join(f"{pool} {quality:.3f}" for pool, quality in self._advice.quality.items())
        self.notes.append(f"expected quality: {found}")
        return super().planned()


def _needs(signal: Signal, pool: Pool) -> Needs:
    """What the pool is called for: nothing that it would refuse; the signal then reads less."""
    needs, can = signal.needs, pool.capabilities
    return needs if can.logprobs or not needs.logprobs else replace(needs, logprobs=False, top_logprobs=0)
