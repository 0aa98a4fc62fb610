from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.transformers.text import StopScanner

LETTERS = st.text("ab", max_size=8)


def run(stops, pieces):
    scanner, out = StopScanner(tuple(stops)), ""
    for piece in pieces:
        text, stopped = scanner.feed(piece)
        out += text
        if stopped:
            return out, True
    return out + scanner.flush(), False


@given(st.lists(LETTERS.filter(bool), max_size=3), st.lists(LETTERS, max_size=8))
def test_it_cuts_the_whole_text_wherever_the_pieces_end(stops, pieces):
    """Against the naive way: search all stop strings in what was said after every piece."""
    said = ""
    for piece in pieces:
        said += piece
        ends = [said.find(s) for s in stops if s in said]
        if ends:
            assert run(stops, pieces) == (said[: min(ends)], True)
            return
    assert run(stops, pieces) == (said, False)


@given(LETTERS.filter(bool), st.lists(LETTERS, max_size=8))
def test_nothing_that_begins_a_stop_string_goes_out_early(stop, pieces):
    scanner, out, said = StopScanner((stop,)), "", ""
    for piece in pieces:
        text, stopped = scanner.feed(piece)
        out, said = out + text, said + piece
        if stopped:
            return
        held = said[len(out) :]
        assert stop.startswith(held), "what is held is the beginning of the stop string"
        longer = [n for n in range(len(held) + 1, len(stop)) if said.endswith(stop[:n])]
        assert not longer, "and no longer beginning was let out"


def test_without_stop_strings_text_passes():
    assert StopScanner(()).feed("abc") == ("abc", False)
