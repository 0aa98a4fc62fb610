"""What a Gateway knows of the streams: each one's spec and policy, taken up from the Learner about once a second.

Streams as their newest checkpoints have them, for a Gateway that starts while the Learner is away.

It only reads: the folder is the Learner's. Where that is out of reach (a node without the shared storage) nothing is
found, and the Gateway waits for the Learner.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serve_app.errors import PoolUnavailable
from serve_app.streams.base import ActiveStream, Core, LearnerPort, Published, arrays_from_bytes
from serve_app.streams.checkpoint import latest
from serve_app.streams.event_queue import call_learner
from serve_app.streams.spec import is_name, spec_from_json
from serve_app.streams.stream import state_of

NOTE: Final = "the Learner is away: by its last checkpoint"
logger = logging.getLogger("jethro.streams")


def recovered(folder: Path, core: Core) -> dict[str, ActiveStream]:
    """Every stream that can be read, by name. A stream's policy is that of its checkpoint, so it may be a little old.

    The tag is empty: the Learner, once it is back, sends its own policy.
    """
    found: dict[str, ActiveStream] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if is_name(path.name) and path.is_dir())
    except OSError as e:
        logger.warning("%s is out of reach: which streams there are, only the Learner knows (%s)", folder, e)
        return found
    for path in paths:
        try:
            acting = _kept(path, core)
        except Exception as e:  # whatever is wrong with one stream, the others are found
            logger.error("stream %s cannot be acted on before the Learner is back: %r", path.name, e)
            continue
        if acting is not None:
            found[path.name] = acting
    return found


def _kept(path: Path, core: Core) -> ActiveStream | None:
    checkpoint = latest(path)
    if checkpoint is None:
        return None
    state = state_of(checkpoint.values["stream"])
    policy = core.restored(state.spec, checkpoint.arrays, checkpoint.values["learner"]).policy()
    return ActiveStream(state.spec, policy, state.uid, state.owner, "", NOTE)


_ASK_S: Final = 5.0
"""Longest wait for the Learner's word."""


class PolicySync:
    """`acting` and `told` hold what was last heard; while the Learner is away they stay as they are.

    One that is away when it is first asked left checkpoints in `folder`, perhaps within reach: they are taken up.
    """

    def __init__(self, port: LearnerPort, core: Core, every_s: float, folder: Path) -> None:
        self._port, self._core, self._every_s, self._folder = port, core, every_s, folder
        self._begun = False
        self._asking: asyncio.Task[None] | None = None
        self._trouble = ""
        self._odd: dict[str, str] = {}
        """By stream, the tag of a policy that could not be used: told of once."""
        self.acting: dict[str, ActiveStream] = {}
        """Streams that can be acted on."""
        self.told: Mapping[str, Published] = {}
        """All streams, with figures and errors; without policies."""
        self.away = True
        """Whether the Learner did not answer when last asked."""

    async def follow(self) -> None:
        """Ask for ever; cancel it to stop."""
        while True:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Ask now, or wait for the answer that is on its way. Raises nothing: see `away`."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        await asyncio.shield(self._asking)

    async def changed(self) -> None:
        """Take up a change that was just made. Raises PoolUnavailable if the Learner does not answer."""
        if self._asking is not None:
            await asyncio.shield(self._asking)  # it may have been asked before the change
        await self.look()
        if self.away:
            raise PoolUnavailable("The Learner does not answer now: try again.", retry_after_s=1)

    async def _ask(self) -> None:
        try:
            told = await call_learner(self._port.published({name: a.tag for name, a in self.acting.items()}), _ASK_S)
        except Exception as e:
            # whatever a Learner that is away raises
            if not self.away or not self._trouble:
                logger.warning("the Learner does not answer; the policies stay as they are: %r", e)
            self._trouble, self.away = repr(e), True
            if not self._begun:
                await self._recall()
            return
        if self.away and self._trouble:
            logger.warning("the Learner answers again")
        self._trouble, self.away, self._begun = "", False, True
        await self._take(told)

    async def _recall(self) -> None:
        self._begun = True
        self.acting = await asyncio.to_thread(recovered, self._folder, self._core)
        self.told = {name: Published("", acting.uid, acting.owner, {}) for name, acting in self.acting.items()}
        if self.acting:
            logger.warning("until the Learner answers, checkpoints are acted by: %s", ", ".join(self.acting))

    async def _take(self, told: Mapping[str, Published]) -> None:
        acting: dict[str, ActiveStream] = {}
        for name, published in told.items():
            known = self.acting.get(name)
            if published.policy is None or published.spec is None:
                # the same as before, or one that cannot be read now: what is known of it goes on
                if known is not None:
                    acting[name] = known
                continue
            try:
                acting[name] = await asyncio.to_thread(self._acting, published, published.spec, published.policy)
            except Exception as e:  # of a Learner of another version, say: the other streams go on
                if self._odd.get(name) != published.tag:
                    logger.error("the policy %s of stream %s cannot be used: %r", published.tag, name, e)
                self._odd[name] = published.tag
                if known is not None:
                    acting[name] = known
        self.acting, self.told = acting, told
        self._odd = {name: tag for name, tag in self._odd.items() if name in told}

    def _acting(self, published: Published, spec: Mapping[str, Any], policy: bytes) -> ActiveStream:
        found = spec_from_json(spec)
        made = self._core.policy(found, arrays_from_bytes(policy))
        return ActiveStream(found, made, published.uid, published.owner, published.tag)
