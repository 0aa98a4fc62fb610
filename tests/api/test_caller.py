import pytest

from serve_app.api.middleware import request_id


@pytest.mark.parametrize("value", [b"a", b"req_123-ABC/:;", b"x" * 128])
def test_a_sane_id_is_taken(value):
    assert request_id([(b"x-request-id", value)]) == value.decode()


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"a b", b"a\tb", b"a\nb", b"\xff", "é".encode(), b"\x00"])
def test_another_is_not(value):
    assert request_id([(b"x-request-id", value)]) is None


def test_none_given():
    assert request_id([(b"host", b"x")]) is None
