import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling_live import BOUNDS, SERVICE_S
from benchmarks.scaling_recording import Recording
from benchmarks.scaling_replay import main, predict
from serve_app.autoscaling.traces import PoolCall


@pytest.fixture
def recording() -> Recording:
    """Two calls a second to each pool for a minute, which one replica bears."""
    calls = [PoolCall(t, pool, 16, 0.0, 0.06, SERVICE_S) for t in np.arange(0, 60, 0.5).tolist() for pool in BOUNDS]
    return Recording(tuple(calls), (0.0, 30.0), {pool: (1.0, 1.0) for pool in BOUNDS}, 60.0)


def test_a_steady_run_is_predicted(recording: Recording) -> None:
    found = {a.figure: a for a in predict(recording, 3.0)}
    assert len(found) == 6
    assert all(found[f"{pool}: TTFT p50, s"].error < 0.05 for pool in BOUNDS)
    assert all(found[f"{pool}: replica-hours"].predicted >= 60 / 3600 * 0.99 for pool in BOUNDS)


def test_files_are_written(recording: Recording, tmp_path: Path) -> None:
    recording.save(tmp_path / "run.json")
    main([str(tmp_path / "run.json"), "--warm-up-s", "4", "--out", str(tmp_path)])
    body = json.loads((tmp_path / "scaling_replay.json").read_text())
    assert body["warm_up_s"] == 4.0 and len(body["figures"]) == 6
    assert "large: replica-hours" in (tmp_path / "scaling_replay.md").read_text()
