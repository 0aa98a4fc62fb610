"""When something that keeps failing is left alone."""

from serve_app.routing.serving.cooldown import FAILURES, Cooldown


def failing(cooldown: Cooldown, times: int) -> None:
    for _ in range(times):
        cooldown.failed()


def test_it_starts_after_consecutive_failures_only() -> None:
    cooldown = Cooldown(10.0, lambda: 0.0)
    failing(cooldown, FAILURES - 1)
    cooldown.succeeded()
    failing(cooldown, FAILURES - 1)
    assert not cooldown.is_active()
    cooldown.failed()
    assert cooldown.is_active() and cooldown.is_active()


def test_after_it_there_is_one_trial_at_a_time() -> None:
    now = [0.0]
    cooldown = Cooldown(10.0, lambda: now[0])
    failing(cooldown, FAILURES)
    now[0] = 9.9
    assert cooldown.is_active()
    now[0] = 10.0
    assert [cooldown.is_active() for _ in range(3)] == [False, True, True]
    now[0] = 20.0
    assert [cooldown.is_active() for _ in range(2)] == [False, True], (
        "a trial that was cancelled is followed by another"
    )
    cooldown.succeeded()
    assert [cooldown.is_active() for _ in range(3)] == [False] * 3


def test_what_fails_meanwhile_does_not_prolong_it() -> None:
    now = [0.0]
    cooldown = Cooldown(10.0, lambda: now[0])
    failing(cooldown, FAILURES)
    now[0] = 9.0
    failing(cooldown, 3)
    now[0] = 10.0
    assert not cooldown.is_active()
    cooldown.failed()
    now[0] = 19.0
    assert cooldown.is_active()
