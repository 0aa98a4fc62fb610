"""Of all tests: hypothesis without deadlines (a slow machine is no failure) and with the same examples every time.

Numeric libraries run on one thread, since the tests run in several processes, and models are not looked for online.
"""

import gc
import logging
import os
import ssl
import sys
import threading
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import settings

for name in ("OMP_NUM_THREADS", "HF_HUB_OFFLINE"):
    os.environ.setdefault(name, "1")
assert "numpy" not in sys.modules, "numpy has read OMP_NUM_THREADS already"

settings.register_profile("jethro", deadline=None, derandomize=True)
settings.load_profile("jethro")

gc.disable()


def pytest_collection_finish() -> None:
    """Modules and collected tests stay to the end: the garbage collector need not walk them again and again."""
    gc.freeze()
    gc.enable()


_trusted = cache(ssl.create_default_context)


@pytest.fixture(scope="module")
def certificates_are_read_once() -> Iterator[None]:
    """For clients of servers that speak plain HTTP: each would read all trusted certificates, for a few requests."""
    context = _trusted()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", lambda *_, **__: context)
        yield


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    """Those that `log_to_stderr` sets up; afterwards as they were."""
    named = [logging.getLogger(name) for name in ("jethro", "asyncio", "uvicorn.error")]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in named]
    hook = threading.excepthook
    yield named
    threading.excepthook = hook
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
