import pytest

from serve_app.cli.progress import Teller, line
from serve_app.data.collection.plan import Progress


def test_a_line_says_rate_time_left_cost_and_trouble() -> None:
    told = line(Progress(1500, 4000, 2, 1000, 50.0, 0.12345, "small: full"))
    assert told == "1,500 of 4,000, 20.0 a second, 2 min 5 s left, $0.1235, 2 failed, trying again: small: full"
    assert line(Progress(0, 10, 0, 0, 0.0, 0.0)) == "0 of 10, $0.0000"
    assert line(Progress(10, 10, 0, 5, 2.0, 1.0, "small: full")) == "10 of 10, 2.5 a second, $1.0000"
    assert "2 h 46 min left" in line(Progress(1, 10_001, 0, 1, 1.0, 0.0))


def test_in_a_pipe_the_first_and_the_last_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    teller = Teller()
    for done in range(101):
        teller(Progress(done, 100, 0, done, 1.0, 0.0))
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == 2 and shown[0].startswith("0 of 100") and shown[1].startswith("100 of 100")
