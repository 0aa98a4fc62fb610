"""The OpenAPI description holds: what it allows is taken, what it forbids is refused, and nothing is a 5xx.

Each operation is a hypothesis test of its own; schemathesis' own pytest plug-in does not run under pytest 9.
"""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from serve_app.api.app import build_app
from tests.api.fakes import EMBEDS, services

OPERATIONS = [
    operation.ok()
    for operation in schemathesis.openapi.from_asgi("/openapi.json", build_app(services())).get_all_operations()
]
BODY = [operation for operation in OPERATIONS if operation.method.upper() == "POST" and operation.body]
BEYOND_THE_SCHEMA = (
    "content is needed unless",
    "needs logprobs",
    "is more than the",  # min_tokens, of max_tokens
    "is no argument of a template",
    "only allowed with stream",
    "only allowed with tools",
    "is not among the tools",
    "have the same name",
    "differ: give one of them",
    "image's",
    "the type of an image",
    "an image is an http:// or https:// URL",
    "images in a request",
    "are not those of a file",
    "must be plain JSON",  # integers beyond 64 bits in a tool's schema
    "Give score, preferred or both",
    "Previous response with id",
    "it holds thoughts alone",
    "must be a valid integer, got",  # 8.0 is an integer to JSON schema, and not to us
    "input: its items must be texts, token ids",  # the same among token ids
    "token ids must all be integers",
)
"""What a JSON schema does not say: the only reasons to refuse a request that it allows."""


STREAMED = [
    operation
    for operation in BODY
    if operation.path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses")
]


def holds(operation, mode, examples, **fields):
    phases = (Phase.explicit, Phase.generate, Phase.shrink)

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=phases)
    @given(st.data())
    def test(data):
        case = data.draw(operation.as_strategy(generation_mode=mode))
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
            # any other is a 404 and nothing behind it is reached
            case.body["model"] = EMBEDS if operation.path == "/v1/embeddings" else "jethro"
            case.body.update(fields)
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        if mode is GenerationMode.POSITIVE and response.status_code == 400:
            assert operation in BODY, response.text
            assert any(rule in response.json()["error"]["message"] for rule in BEYOND_THE_SCHEMA), response.text

    test()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda o: o.label)
def test_what_the_description_allows(operation):
    holds(operation, GenerationMode.POSITIVE, 6 if operation in BODY else 2)


@pytest.mark.parametrize("operation", STREAMED, ids=lambda o: o.label)
def test_every_event_of_a_stream_is_as_described(operation):
    holds(operation, GenerationMode.POSITIVE, 6, stream=True)


@pytest.mark.parametrize("operation", BODY, ids=lambda o: o.label)
def test_what_the_description_forbids(operation):
    holds(operation, GenerationMode.NEGATIVE, 6)
