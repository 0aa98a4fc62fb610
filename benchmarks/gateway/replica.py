"""FOR BENCHMARKS ONLY: a pool replica's app alone, with the fake engine and a known secret, for uvicorn --factory."""

from benchmarks.fake_engine import FakeEngine
from serve_app.engines.app import ReplicaApp, build_replica_app

SECRET = "benchmark"
MODEL = "fake"


def build() -> ReplicaApp:
    """The app, as the deployment builds it."""
    return build_replica_app(FakeEngine(MODEL), secret=SECRET, max_ongoing=1024, max_queued=1024)
