import pytest

from serve_app.api.middleware import Keys
from serve_app.errors import AuthenticationFailed

KEYS = Keys({"acme": "k1", "umbrella": "k2"})


@pytest.mark.parametrize(("value", "tenant"), [(b"Bearer k1", "acme"), (b"bearer  k2 ", "umbrella")])
def test_a_key_names_its_tenant(value, tenant):
    assert KEYS.tenant([(b"host", b"x"), (b"authorization", value)]) == tenant


@pytest.mark.parametrize("value", [b"Bearer k3", b"Bearer k", b"Bearer k11", b"Bearer \xff", b"Bearer " + b"x" * 9999])
def test_a_wrong_key(value):
    with pytest.raises(AuthenticationFailed) as caught:
        KEYS.tenant([(b"authorization", value)])
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "headers", [[], [(b"authorization", b"")], [(b"authorization", b"Basic k1")], [(b"authorization", b"Bearer ")]]
)
def test_no_key(headers):
    with pytest.raises(AuthenticationFailed) as caught:
        KEYS.tenant(headers)
    assert caught.value.code == "missing_api_key"


def test_without_keys_everybody_may_call():
    assert Keys({}).tenant([]) is None
    assert not Keys({})
    assert KEYS


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"k2")],
        [(b"x-api-key", b" k2 "), (b"authorization", b"Basic k1")],
        [(b"authorization", b"Bearer k2"), (b"x-api-key", b"k2")],
        [(b"authorization", b"Bearer "), (b"x-api-key", b"k2")],
        [(b"x-api-key", b""), (b"authorization", b"Bearer k2")],
    ],
)
def test_a_key_in_either_header_or_in_both(headers):
    assert KEYS.tenant(headers) == "umbrella"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"k3")],
        [(b"x-api-key", b"Bearer k2")],
        [(b"authorization", b"Bearer k1"), (b"x-api-key", b"k2")],
        [(b"authorization", b"Bearer k1"), (b"x-api-key", b"k3")],
        [(b"authorization", b"Bearer k3"), (b"x-api-key", b"k1")],
    ],
)
def test_keys_that_are_wrong_or_differ(headers):
    with pytest.raises(AuthenticationFailed) as caught:
        KEYS.tenant(headers)
    assert caught.value.code == "invalid_api_key"
