import pytest

from serve_app.api.reply import error_event, error_headers, header_text
from serve_app.errors import AuthenticationFailed, BodyTooLarge, JethroError, Overloaded, PoolUnavailable


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Overloaded("x"), [(b"retry-after", b"7")]),
        (PoolUnavailable("x", retry_after_s=0.1), [(b"retry-after", b"1")]),
        (PoolUnavailable("x", retry_after_s=2.1), [(b"retry-after", b"3")]),
        (AuthenticationFailed("x"), [(b"www-authenticate", b"Bearer")]),
        (BodyTooLarge("x"), [(b"connection", b"close")]),
        (JethroError("x"), []),
    ],
)
def test_headers_of_errors(error, headers):
    assert error_headers(error, 7) == headers


def test_an_error_event_is_one_event():
    assert error_event(JethroError("a\n\nb")).count(b"\n\n") == 1


@pytest.mark.parametrize(
    ("value", "text"), [("plain 1", b"plain 1"), ("a\r\nb: c", b"a??b: c"), ("größe", b"gr??e"), (1.5, b"1.5")]
)
def test_nothing_but_visible_ascii_gets_into_a_header(value, text):
    assert header_text(value) == text
