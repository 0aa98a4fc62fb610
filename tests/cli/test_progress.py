import pytest

from serve_app.cli.progress import ProgressLine, progress_text
from serve_app.data.collection.plan import CollectionProgress


def test_a_line_says_rate_time_left_cost_and_trouble() -> None:
    told = progress_text(CollectionProgress(1500, 4000, 2, 1000, 50.0, 0.12345, "small: full"))
    assert told == "1,500 of 4,000, 20.0 a second, 2 min 5 s left, $0.1235, 2 failed, retrying: small: full"
    assert progress_text(CollectionProgress(0, 10, 0, 0, 0.0, 0.0)) == "0 of 10, $0.0000"
    assert progress_text(CollectionProgress(10, 10, 0, 5, 2.0, 1.0, "small: full")) == "10 of 10, 2.5 a second, $1.0000"
    assert "2 h 46 min left" in progress_text(CollectionProgress(1, 10_001, 0, 1, 1.0, 0.0))


def test_in_a_pipe_the_first_and_the_last_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    line, calls = ProgressLine(), []
    for done in range(101):
        line.show(lambda done=done: calls.append(done) or f"{done} of 100", last=done == 100)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["0 of 100", "100 of 100"] and calls == [0, 100], "a line that is not shown is not made"
