from pydantic.json_schema import models_json_schema

from serve_app.api.dialects.messages.schemas import CountTokensRequest, MessagesRequest
from serve_app.api.openapi import bound
from serve_app.api.schemas import ChatRequest, CompletionRequest
from serve_app.config.tree import LimitsConfig

LIMITS = LimitsConfig(messages=4, n=3, stop=2, stop_chars=5, top_logprobs=6, max_tokens=100, tools=7)


DESCRIBED = (ChatRequest, CompletionRequest, MessagesRequest, CountTokensRequest)


def test_the_operators_limits_are_in_the_schemas():
    _, schemas = models_json_schema([(model, "validation") for model in DESCRIBED])
    bound(schemas["$defs"], LIMITS)
    chat, text = (schemas["$defs"][name]["properties"] for name in ("ChatRequest", "CompletionRequest"))
    for properties in (chat, text):
        assert properties["n"]["anyOf"][0]["maximum"] == 3
        assert properties["max_tokens"]["anyOf"][0]["maximum"] == 100
        string, array, _ = properties["stop"]["anyOf"]
        assert (string["maxLength"], array["maxItems"], array["items"]["maxLength"]) == (5, 2, 5)
    ours, counted = (schemas["$defs"][name]["properties"] for name in ("MessagesRequest", "CountTokensRequest"))
    stops = ours["stop_sequences"]["anyOf"][0]
    assert (stops["maxItems"], stops["items"]["maxLength"]) == (2, 5)
    assert ours["messages"]["maxItems"] == counted["messages"]["maxItems"] == 4
    assert ours["tools"]["anyOf"][0]["maxItems"] == counted["tools"]["anyOf"][0]["maxItems"] == 7
    assert chat["messages"]["maxItems"] == 4
    assert chat["tools"]["anyOf"][0]["maxItems"] == 7
    assert chat["top_logprobs"]["anyOf"][0]["maximum"] == text["logprobs"]["anyOf"][0]["maximum"] == 6
    assert chat["max_completion_tokens"]["anyOf"][0]["maximum"] == 100
