"""A trace that quotes messages quotes nothing of their images."""

import json

from serve_app.images import Image
from serve_app.tracing import model_calls
from serve_app.types import Message


def test_a_turn_says_that_there_are_images_and_no_more() -> None:
    parts = ["what is it?", Image("data:image/png;base64,iVBORw0KGgo="), Image("https://x.example/a.png")]
    turn = model_calls._turn(Message.of("user", parts))
    assert turn["parts"] == [
        {"type": "text", "content": "what is it?"},
        {"type": "image", "inline": True},
        {"type": "image", "inline": False},
    ]
    assert "iVBOR" not in json.dumps(turn) and "x.example" not in json.dumps(turn)


def test_what_is_said_of_text_is_as_it_was() -> None:
    turn = model_calls._turn(Message("tool", "3", {"tool_call_id": "c"}))
    assert turn == {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "3"}]}
