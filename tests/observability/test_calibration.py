import random

import pytest

from serve_app.observability.calibration import WINDOW, CalibrationErrors, expected_calibration_error


def record(
    quality: float | None = 0.8, version: str = "a", created_s: float = 1.0, **changes: object
) -> dict[str, object]:
    expected = {} if quality is None else {"small": {"quality": quality}}
    values = {"strategy": "route", "router": "knn", "pool": "small", "expected": expected, "created_s": created_s}
    return {**values, "policy_version": f"{version}@0.5", **changes}


def readings(errors: CalibrationErrors) -> dict[tuple[str, str, str], tuple[float, int]]:
    return {(r.strategy, r.router, r.pool): (r.error, r.ratings) for r in errors.readings()}


def test_of_bins_by_hand():
    # bin 0.8: |0.8 + 0.82 - 1| ; bin 0.3: |0.35 - 0| ; over three ratings
    assert expected_calibration_error([(0.8, 1.0), (0.82, 0.0), (0.35, 0.0)]) == pytest.approx((0.62 + 0.35) / 3)
    assert expected_calibration_error([]) == 0.0
    assert expected_calibration_error([(1.0, 1.0), (0.0, 0.0)]) == 0.0


def test_honest_expectations_have_a_small_error_and_overconfident_ones_their_distance():
    rng = random.Random(0)
    drawn = [rng.random() for _ in range(20_000)]
    honest = [(p, float(rng.random() < p)) for p in drawn]
    assert expected_calibration_error(honest) < 0.02
    proud = [(min(1.0, p + 0.3), observed) for p, observed in honest]
    assert expected_calibration_error(proud) == pytest.approx(0.3 - 0.3**2 / 2, abs=0.02)


def test_by_strategy_router_and_pool():
    errors = CalibrationErrors()
    errors.add(record(), 1.0)
    errors.add(record(strategy="cascade", router=None), 0.0)
    errors.add(record(None), 1.0)
    errors.add(record(pool="large"), 1.0)  # whose quality is not among the expected
    assert readings(errors) == {
        ("route", "knn", "small"): (pytest.approx(0.2), 1),
        ("cascade", "", "small"): (pytest.approx(0.8), 1),
    }


def test_the_newest_version_counts_alone():
    errors = CalibrationErrors()
    errors.add(record(version="a", created_s=1.0), 0.0)
    errors.add(record(version="b", created_s=5.0), 1.0)
    errors.add(record(version="a", created_s=2.0), 0.0)  # late feedback on the version before
    assert readings(errors) == {("route", "knn", "small"): (pytest.approx(0.2), 1)}


def test_older_ratings_are_forgotten():
    errors = CalibrationErrors()
    for _ in range(WINDOW):
        errors.add(record(), 0.0)
    for _ in range(WINDOW):
        errors.add(record(), 1.0)
    assert readings(errors) == {("route", "knn", "small"): (pytest.approx(0.2), WINDOW)}
