"""What a Gateway knows of the streams: each one's spec and policy, refreshed from the Learner about once a second.

A Gateway that starts while the Learner is away reads the newest checkpoints instead. It only reads: the folder is the
Learner's. Where that is out of reach (a node without the shared storage) nothing is found, and the Gateway waits.
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
_POLL_S: Final = 5.0
"""Longest wait for the Learner's answer."""
logger = logging.getLogger("jethro.streams")


def recovered(folder: Path, core: Core) -> dict[str, ActiveStream]:
    """Every stream with a readable checkpoint, by name. Its policy is that of the checkpoint, so it may be a bit old.

    The tag is empty: the Learner sends its own policy once it is back.
    """
    found: dict[str, ActiveStream] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if is_name(path.name) and path.is_dir())
    except OSError as e:
        logger.warning("%s is out of reach: streams are unknown until the Learner answers (%s)", folder, e)
        return found
    for path in paths:
        try:
            if (checkpoint := latest(path)) is not None:
                state = state_of(checkpoint.values["stream"])
                policy = core.restored(state.spec, checkpoint.arrays, checkpoint.values["learner"]).policy()
                found[path.name] = ActiveStream(state.spec, policy, state.uid, state.owner, "", NOTE)
        except Exception as e:  # a fault of one stream does not hide the others
            logger.error("stream %s cannot be served before the Learner is back: %r", path.name, e)
    return found


class PolicySync:
    """`active` and `published` hold the Learner's last answer; while it is away they stay as they are.

    If it is away at the first call, streams are recovered from the checkpoints in `folder`.
    """

    def __init__(self, port: LearnerPort, core: Core, every_s: float, folder: Path) -> None:
        self._port, self._core, self._every_s, self._folder = port, core, every_s, folder
        self._begun = False
        self._polling: asyncio.Task[None] | None = None
        self._last_error = ""
        self._unusable: dict[str, str] = {}
        """By stream, the tag of a policy that could not be used: logged once."""
        self.active: dict[str, ActiveStream] = {}
        """Streams with a policy."""
        self.published: Mapping[str, Published] = {}
        """All streams, with figures and errors; without policies."""
        self.away = True
        """Whether the Learner did not answer when last called."""

    async def follow(self) -> None:
        """Poll for ever; cancel it to stop."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._every_s)

    async def refresh(self) -> None:
        """Poll now, or wait for the poll in progress. Raises nothing: see `away`."""
        if self._polling is None or self._polling.done():
            self._polling = asyncio.get_running_loop().create_task(self._poll())
        await asyncio.shield(self._polling)

    async def refresh_after_change(self) -> None:
        """Take up a change that was just made. Raises PoolUnavailable if the Learner does not answer."""
        if self._polling is not None:
            await asyncio.shield(self._polling)  # it may have been sent before the change
        await self.refresh()
        if self.away:
            raise PoolUnavailable("The Learner does not answer now: try again.", retry_after_s=1)

    async def _poll(self) -> None:
        try:
            known = {name: stream.tag for name, stream in self.active.items()}
            published = await call_learner(self._port.published(known), _POLL_S)
        except Exception as e:  # any error of a Learner that is away
            if not self.away or not self._last_error:
                logger.warning("the Learner does not answer; the policies stay as they are: %r", e)
            self._last_error, self.away = repr(e), True
            if not self._begun:
                await self._recover()
            return
        if self.away and self._last_error:
            logger.warning("the Learner answers again")
        self._last_error, self.away, self._begun = "", False, True
        await self._take(published)

    async def _recover(self) -> None:
        self._begun = True
        self.active = await asyncio.to_thread(recovered, self._folder, self._core)
        self.published = {name: Published("", a.uid, a.owner, {}) for name, a in self.active.items()}
        if self.active:
            logger.warning("until the Learner answers, checkpoints are served: %s", ", ".join(self.active))

    async def _take(self, published: Mapping[str, Published]) -> None:
        """Replace what is known; a stream without a new policy, or with an unusable one, keeps its last."""
        active: dict[str, ActiveStream] = {}
        for name, new in published.items():
            known = self.active.get(name)
            if new.policy is not None and new.spec is not None:
                try:
                    known = await asyncio.to_thread(self._activated, new, new.spec, new.policy)
                except Exception as e:  # of a Learner of another version, say: the other streams are served
                    if self._unusable.get(name) != new.tag:
                        logger.error("the policy %s of stream %s cannot be used: %r", new.tag, name, e)
                    self._unusable[name] = new.tag
            if known is not None:
                active[name] = known
        self.active, self.published = active, published
        self._unusable = {name: tag for name, tag in self._unusable.items() if name in published}

    def _activated(self, new: Published, spec: Mapping[str, Any], policy: bytes) -> ActiveStream:
        found = spec_from_json(spec)
        return ActiveStream(found, self._core.policy(found, arrays_from_bytes(policy)), new.uid, new.owner, new.tag)
