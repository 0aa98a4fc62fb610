"""A message's images keep their place while its text is changed, and no text is left as it was before."""

from dataclasses import replace

import pytest

from serve_app.images import Image
from serve_app.types import Message, Query

A, B = Image("https://x.example/a.png"), Image("data:image/png;base64,eA==", "low")


def test_a_message_of_text_alone_has_no_parts():
    assert Message.of("user", ["a", "b"]) == Message("user", "a\nb")


def test_images_stay_between_their_texts():
    message = Message.of("user", ["call me", A, "at home", B], {"name": "ann"})
    assert message.content == "call me\nat home" and message.images == (A, B)
    changed = message.rewritten(str.upper)
    assert changed.parts == ("CALL ME", A, "AT HOME", B) and changed.extra == {"name": "ann"}
    assert message.rewritten(str.upper, {}).extra == {}


def test_a_change_across_parts_loses_the_order_and_never_the_change():
    message = Message.of("user", ["my secret", A, "word"])
    changed = message.rewritten(lambda text: text.replace("secret\nword", "[gone]"))
    assert changed.parts == ("my [gone]", A) and changed.content == "my [gone]"


def test_a_text_cannot_be_changed_past_its_parts():
    with pytest.raises(ValueError, match="rewritten"):
        replace(Message.of("user", ["secret", A]), content="[gone]")


def test_images_of_a_query_in_their_order():
    query = Query((Message.of("user", [A]), Message("assistant", "x"), Message.of("tool", ["y", B])))
    assert query.images == (A, B) and query.text == "\nx\ny" and query.image_tokens == 765 + 85
    assert (A.inline, B.inline) == (False, True)
