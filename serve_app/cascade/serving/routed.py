"""Cascade routing as a strategy: the fitted router says whom to ask first, whom next, and when to stop.

Dekoninck, Baader & Vechev 2025 (arXiv 2410.10347); the router is `routing/router.py`. Any pool may be first and any may
be skipped. Answers are held whole; the one that the router takes, or the best at hand, goes to the caller.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from math import nan
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from serve_app.cascade.base import Chain, Level, Needs, Signal
from serve_app.cascade.routing.router import Advice, Answered, CascadeRouter, Prompt
from serve_app.cascade.serving.calls import Asking
from serve_app.cascade.serving.confidence import text_of
from serve_app.cascade.serving.relay import Passing
from serve_app.cascade.serving.response_filter import with_needs
from serve_app.cascade.serving.run import Ascent, Visit, Way
from serve_app.cascade.serving.skipping import Patience
from serve_app.cascade.serving.strategy import PriorOf, judged_in_time, no_prior
from serve_app.cascade.signals.calibration import LogisticCalibrator
from serve_app.errors import ConfigError
from serve_app.learning.encoder import load_encoder
from serve_app.pools.attempt import refusal, unmet
from serve_app.pools.base import Pool
from serve_app.strategy import Context, Event
from serve_app.types import Decision, Query


class RoutedCascade:
    """Walks as the router advises. `pools` has every pool of the router by name; `rng` draws each query's coin."""

    def __init__(
        self,
        name: str,
        router: CascadeRouter,
        pools: Mapping[str, Pool],
        prior: PriorOf = no_prior,
        patience: Patience | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Raises ConfigError for a router without a signal to judge served answers by."""
        lacking = [pool for pool in router.pools if router.signals.get(pool) is None]
        if lacking:
            raise ConfigError(
                f"cascade.routing: the router has no signal for pool {lacking[0]}: it was fitted on recorded "
                "confidences; fit it with signals"
            )
        self.name = name
        self.router = router
        self._pools = pools
        self._prior = prior
        self._patience = patience or Patience()
        self._rng = rng or random.Random()
        monotone = LogisticCalibrator(1.0, 0.0)  # of several choices the lowest signal counts; the router estimates
        levels = tuple(Level(pool, router.signals[pool], monotone) for pool in router.pools)
        self.chain = Chain(levels, router.version, router.expected, models=router.models)

    async def decide(self, query: Query, decision_id: str) -> Decision:
        """Whom the router asks first. Raises UnsupportedParameter if no pool can honour the query."""
        walk = await self._begun(query, decision_id)
        advice = walk.advice()
        walk.ascent.ways = [way for way in walk.ascent.ways if way.pool.name == advice.ask]
        walk.note(advice)
        return walk.ascent.outlook()

    async def run(self, query: Query, context: Context) -> AsyncGenerator[Event]:
        """Decision, then frames or the answer, then every call made; see the contract."""
        walk = await self._begun(query, context.call.id)
        ascent = walk.ascent
        context.ledger.standing = ascent.standing
        while (advice := walk.advice()).ask is not None:
            way = walk.able[advice.ask]
            if ascent.best is not None and not self._patience.allows(way.pool.name, context.call):
                ascent.note(f"no time for {way.pool.model}")
                break
            others = [w for name, w in walk.able.items() if name not in walk.out and name != advice.ask]
            context.demand.wanted(way.pool.name)
            call = replace(context.call, may_wait=not others and ascent.best is None)
            visit = ascent.visit(way, with_needs(query, way.needs))
            asking = Asking(query, call, context.stream, ascent.prior)
            await judged_in_time(visit, others, ascent, asking, self._patience)
            walk.came(visit)
        taken = walk.taken(advice)
        if taken is None:
            raise ascent.telling_error
        async with aclosing(Passing(ascent, taken, query, context.call, context.stream).from_hold()) as events:
            async for event in events:
                yield event

    async def _begun(self, query: Query, decision_id: str) -> "_Walk":
        lacking = {name: unmet(query, self._pools[name].capabilities) for name in self.router.pools}
        if all(lacking.values()):
            models = " or ".join(self._pools[name].model for name in self.router.pools)
            raise refusal(lacking[self.router.pools[-1]] or "", models)
        notes = [f"{self._pools[name].model} does not support {what}" for name, what in lacking.items() if what]
        ways = {
            level.pool: Way(level, self._pools[level.pool], judged=True, needs=self._needs(level, level.signal))
            for level in self.chain.levels
            if level.signal is not None and not lacking[level.pool]
        }
        ascent = Ascent(self.name, self.chain, decision_id, list(ways.values()), notes)
        started = perf_counter()
        prior = next((way.needs.prior for way in ways.values() if way.needs.prior), None)
        if prior is not None:
            ascent.prior = await self._prior(prior, query)
        prompt = Prompt(len(query.text), self._rng.random(), await self._vector(query))
        ascent.prior_ms = (perf_counter() - started) * 1e3
        return _Walk(self.router, ascent, ways, prompt)

    def _needs(self, level: Level, signal: Signal) -> Needs:
        """What is asked of a pool for its judge: nothing that it would refuse; the signal then tells less."""
        needs, can = signal.needs, self._pools[level.pool].capabilities
        return needs if can.logprobs or not needs.logprobs else replace(needs, logprobs=False, top_logprobs=0)

    async def _vector(self, query: Query) -> NDArray[np.float32] | None:
        if self.router.encoder is None:
            return None
        encoder = await asyncio.to_thread(load_encoder, self.router.encoder)
        vector: NDArray[np.float32] = (await asyncio.to_thread(encoder.embed, [query.text]))[0]
        return vector


class _Walk:
    """What one query's pools said so far, as the router wants it. `out`: pools that are not asked (again)."""

    def __init__(self, router: CascadeRouter, ascent: Ascent, able: Mapping[str, Way], prompt: Prompt) -> None:
        self.ascent, self.able = ascent, able
        self._router, self._prompt = router, prompt
        self._answers: dict[str, tuple[Visit, Answered]] = {}
        self.out = {name for name in router.pools if name not in able}

    def advice(self) -> Advice:
        """What the router says now; its time counts as the decision's."""
        started = perf_counter()
        answers = [answered for _, answered in self._answers.values()]
        without = sorted(self.out - set(self._answers))
        found = self._router.after(self._prompt, answers, without)
        for visit, _ in self._answers.values():
            assert visit.judgement is not None
            visit.judgement = replace(visit.judgement, probability=found.quality[visit.way.pool.name])
            visit.steps[0] = replace(visit.steps[0], reason=str(visit.judgement))
        self.ascent.prior_ms += (perf_counter() - started) * 1e3
        return found

    def came(self, visit: Visit) -> None:
        """A pool answered, or failed."""
        name = visit.way.pool.name
        self.out.add(name)
        if visit.judgement is None or not visit.whole:
            return
        visit.judgement = replace(visit.judgement, threshold=nan)
        if visit.judgement.why:  # a tool call that cannot be made is no answer
            return
        cost = sum(step.cost_usd for step in visit.steps)
        self._answers[name] = visit, Answered(name, visit.judgement.value, text_of(visit.reading.choices[0]), cost)

    def taken(self, advice: Advice) -> Visit | None:
        """The answer that the router takes, or the best that is there."""
        known = self._answers.get(advice.take or "")
        return known[0] if known is not None else self.ascent.best

    def note(self, advice: Advice) -> None:
        """What the router expects, for a decision with nobody asked."""
        told = ", ".join(f"{pool} {quality:.3f}" for pool, quality in advice.quality.items())
        self.ascent.note(f"expected quality: {told}")
