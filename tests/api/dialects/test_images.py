"""Image parts of chat: read with the limits of the operator, kept in order, and refused by their place."""

import base64

import pytest

from serve_app.api.query import chat_request
from serve_app.config.tree import LimitsConfig
from serve_app.errors import RequestError

HEADS = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x10\x00\x00\x00WEBP",
}


def data_uri(kind="image/png", of="image/png", size=30):
    return f"data:{kind};base64,{base64.b64encode(HEADS[of].ljust(size, bytes(1))).decode()}"


PNG = data_uri()


def query(*parts, role="user", **limits):
    extra = {"tool_call_id": "c"} if role == "tool" else {}
    turn = {"role": role, "content": list(parts), **extra}
    return chat_request({"model": "m", "messages": [turn]}, LimitsConfig(**limits), None).query


def part(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


@pytest.mark.parametrize("kind", HEADS)
def test_images_of_every_type_are_taken_and_written_as_they_came(kind):
    parts = [
        {"type": "text", "text": "before"},
        part(data_uri(kind, kind), detail="high"),
        {"type": "text", "text": "x"},
    ]
    read = query(*parts)
    assert read.text == "before\nx"
    assert read.messages[0].to_openai() == {"role": "user", "content": parts}
    assert read.images[0].param == "messages.0.content.1.image_url"


@pytest.mark.parametrize("role", ["user", "tool"])
def test_users_and_tools_show_images(role):
    assert len(query(part("https://x.example/a.png"), part(PNG), role=role).images) == 2


def test_a_url_without_an_object_is_taken():
    assert query({"type": "image_url", "image_url": PNG}).messages[0].to_openai()["content"] == [part(PNG)]


def test_images_count_as_tokens_by_their_detail_and_text_as_none():
    assert query(part(PNG), part(PNG, detail="low")).image_tokens == 765 + 85
    assert query({"type": "text", "text": "x"}).image_tokens == 0


def test_text_alone_is_one_string_as_before():
    read = query({"type": "text", "text": "a"}, {"type": "text", "text": "b"})
    assert read.messages[0].parts == () and read.messages[0].to_openai()["content"] == "a\nb"


def test_no_text_and_no_repr_shows_an_image():
    read = query(part(PNG), {"type": "text", "text": "what is it?"})
    for shown in (read.text, repr(read), str(read.messages)):
        assert "base64" not in shown and "iVBOR" not in shown


def test_a_type_by_its_other_name_is_taken():
    assert query(part(data_uri("image/jpg", "image/jpeg"))).images


@pytest.mark.parametrize(
    ("url", "code", "why"),
    [
        ("ftp://x.example/a.png", "invalid_value", "http"),
        ("file:///etc/passwd", "invalid_value", "http"),
        ("javascript:alert(1)", "invalid_value", "http"),
        ("https://", "invalid_value", "host"),
        ("https://x.example/a b", "invalid_value", "blanks"),
        ("https://x.example/\u0007", "invalid_value", "control"),
        ("https://[x/a", "invalid_value", "host"),
        ("x", "invalid_value", "http"),
        ("data:,x", "invalid_value", "data:image/png;base64"),
        ("data:image/png,x", "invalid_value", "data:image/png;base64"),
        ("data:text/html;base64,PGI+", "invalid_image_type", "image/png"),
        ("data:image/svg+xml;base64,PHN2Zz4=", "invalid_image_type", "image/png"),
        (PNG[:-1], "invalid_value", "base64"),
        (PNG + "\n", "invalid_value", "base64"),
        (data_uri(size=29) + "AAAA", "invalid_value", "base64"),
        (PNG.replace("iVBO", "iV-_"), "invalid_value", "base64"),
        (PNG.replace("iVBO", "\u00e9VBO"), "invalid_value", "base64"),
        ("data:image/png;base64,", "invalid_image", "image/png"),
        (data_uri("image/gif", "image/png"), "invalid_image", "image/gif"),
        (data_uri("image/png", "image/webp"), "invalid_image", "image/png"),
    ],
)
def test_a_malformed_image_is_refused_by_its_place_and_not_quoted(url, code, why):
    with pytest.raises(RequestError, match=why) as caught:
        query({"type": "text", "text": "x"}, part(url))
    assert caught.value.param == "messages.0.content.1.image_url"
    assert (caught.value.status, caught.value.code) == (400, code)
    assert len(url) < 12 or url[-8:] not in caught.value.message


def test_bounds_of_the_operator():
    with pytest.raises(RequestError, match="at most 2 images") as caught:
        query(part(PNG), part(PNG), part(PNG), images=2)
    assert caught.value.param == "messages.0.content.2.image_url"
    with pytest.raises(RequestError, match="not accepted"):
        query(part(PNG), images=0)
    assert query(part(data_uri(size=100)), image_bytes=100)
    with pytest.raises(RequestError, match="at most 100 bytes an image, got 101"):
        query(part(data_uri(size=101)), image_bytes=100)
    with pytest.raises(RequestError, match="image/gif"):
        query(part(PNG), image_types=("image/gif",))
    with pytest.raises(RequestError, match="at most 20 characters"):
        query(part("https://x.example/a.png"), image_url_chars=20)


@pytest.mark.parametrize("role", ["system", "developer", "assistant"])
def test_other_roles_show_none(role):
    with pytest.raises(RequestError, match="only users' and tools' messages") as caught:
        query(part(PNG), role=role)
    assert (caught.value.param, caught.value.code) == ("messages.0.content.0.type", "unsupported_parameter")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"type": "image_url"}, "messages.0.content.0.image_url"),
        ({"type": "image_url", "image_url": {}}, "messages.0.content.0.image_url.url"),
        ({"type": "image_url", "image_url": {"url": ""}}, "messages.0.content.0.image_url.url"),
        ({"type": "image_url", "image_url": {"url": 5}}, "messages.0.content.0.image_url.url"),
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "x"}}, "messages.0.content.0.image_url.detail"),
        ({"type": "image_url", "image_url": {"url": PNG, "fetch": True}}, "messages.0.content.0.image_url.fetch"),
        ({"type": "poem"}, "messages.0.content.0.type"),
    ],
)
def test_a_wrong_part_is_refused_by_its_path(given, param):
    with pytest.raises(RequestError) as caught:
        query(given)
    assert caught.value.param == param
