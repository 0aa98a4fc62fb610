"""Streams as their newest checkpoints have them, for a Gateway that starts while the Learner is away.

It only reads: the folder is the Learner's. Where that is out of reach (a node without the shared storage) nothing is
found, and the Gateway waits for the Learner.
"""

import logging
from pathlib import Path
from typing import Final

from serve_app.cascade.streams.base import Acting, Core
from serve_app.cascade.streams.checkpoint import latest
from serve_app.cascade.streams.spec import is_name
from serve_app.cascade.streams.stream import state_of

NOTE: Final = "the Learner is away: by its last checkpoint"
log = logging.getLogger("jethro.streams")


def kept(folder: Path, core: Core) -> dict[str, Acting]:
    """Every stream that can be read, by name. A stream's policy is that of its checkpoint, so it may be a little old.

    The tag is empty: the Learner, once it is back, sends its own policy.
    """
    found: dict[str, Acting] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if is_name(path.name) and path.is_dir())
    except OSError as e:
        log.warning("%s is out of reach: which streams there are, only the Learner knows (%s)", folder, e)
        return found
    for path in paths:
        try:
            acting = _kept(path, core)
        except Exception as e:  # whatever is wrong with one stream, the others are found
            log.error("stream %s cannot be acted on before the Learner is back: %r", path.name, e)
            continue
        if acting is not None:
            found[path.name] = acting
    return found


def _kept(path: Path, core: Core) -> Acting | None:
    checkpoint = latest(path)
    if checkpoint is None:
        return None
    state = state_of(checkpoint.values["stream"])
    policy = core.restored(state.spec, checkpoint.arrays, checkpoint.values["learner"]).policy()
    return Acting(state.spec, policy, state.uid, state.owner, "", NOTE)
