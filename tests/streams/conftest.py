"""A Learner, pools with scripted answers, and a Gateway with the stream `mood`."""

import pytest

from serve_app.streams.base import StreamCreate
from tests.api.fakes import FakePool
from tests.streams.fakes import spec
from tests.streams.gateways import Switched, gateway
from tests.streams.learners import opened


@pytest.fixture
async def learner(tmp_path):
    made = Switched(tmp_path / "streams")
    await made.start()
    yield made
    await made.kill()


@pytest.fixture
def pools():
    return {"small": FakePool(), "large": FakePool("large", "lab-large", words=("jo", "y"))}


@pytest.fixture
async def streams(learner, pools):
    made = gateway(learner, pools)
    made.start()
    await made.create(StreamCreate(spec()))
    yield made
    await made.aclose()


@pytest.fixture
def registry(tmp_path):
    made = opened(tmp_path / "streams", most=3)
    yield made
    made.close()
