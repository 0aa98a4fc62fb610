import re

import pytest

from tests.api.fakes import services


@pytest.fixture
async def document(client):
    return (await client().get("/openapi.json")).json()


def test_every_route_is_described(document):
    assert {(m, p) for p, ms in document["paths"].items() for m in ms} == {
        ("post", "/v1/chat/completions"),
        ("post", "/v1/completions"),
        ("post", "/v1/embeddings"),
        ("post", "/v1/messages"),
        ("post", "/v1/messages/count_tokens"),
        ("post", "/v1/responses"),
        ("get", "/v1/responses/{response_id}"),
        ("delete", "/v1/responses/{response_id}"),
        ("post", "/v1/responses/{response_id}/cancel"),
        ("get", "/v1/responses/{response_id}/input_items"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model_id}"),
        ("post", "/v1/route"),
        ("post", "/v1/feedback"),
        ("get", "/v1/decisions/{decision_id}"),
        ("get", "/v1/routers"),
        ("delete", "/v1/decisions/{decision_id}"),
        ("get", "/v1/decisions"),
        ("delete", "/v1/decisions"),
        ("get", "/v1/users/{user}/decisions"),
        ("delete", "/v1/users/{user}/decisions"),
        ("post", "/v1/streams"),
        ("get", "/v1/streams"),
        ("get", "/v1/streams/{name}"),
        ("patch", "/v1/streams/{name}"),
        ("delete", "/v1/streams/{name}"),
        ("get", "/v1/adapters"),
        ("post", "/v1/adapters"),
        ("get", "/v1/adapters/{name}"),
        ("patch", "/v1/adapters/{name}"),
        ("delete", "/v1/adapters/{name}"),
        ("get", "/v1/admin/access"),
        ("get", "/v1/admin/decisions"),
        ("get", "/v1/admin/decisions/{decision_id}"),
        ("get", "/v1/admin/routers"),
        ("get", "/v1/admin/routers/{name}/curve"),
        ("get", "/v1/admin/predict"),
        ("post", "/v1/admin/routers/{name}/threshold"),
        ("post", "/v1/admin/routers/{name}/undo"),
        ("get", "/health"),
        ("get", "/ping"),
        ("get", "/version"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("get", "/docs"),
        ("get", "/console"),
        ("get", "/console/{file}"),
        ("get", "/v1/admin/live"),
    }


def test_references_lead_somewhere(document):
    names = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert names
    assert names <= set(document["components"]["schemas"])


def test_unknown_parameters_are_not_allowed_by_the_schema_either(document):
    for name in ("ChatRequest", "CompletionRequest", "FeedbackRequest", "UserTurn"):
        assert document["components"]["schemas"][name]["additionalProperties"] is False


def test_paths_have_their_parameters_and_operations_names_of_their_own(document):
    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    for path, operation in operations:
        assert re.findall(r"{(\w+)}", path) == [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
    assert len({o["operationId"] for _, o in operations}) == len(operations)


def test_without_keys_only_changes_of_the_operator_need_one(document):
    assert set(document["components"]["securitySchemes"]) == {"admin", "admin_api_key"}
    secured = {(m, p) for p, ms in document["paths"].items() for m, o in ms.items() if "security" in o}
    change, undo = "/v1/admin/routers/{name}/threshold", "/v1/admin/routers/{name}/undo"
    assert secured == {("post", change), ("post", undo)}


async def test_with_keys_the_operators_routes_need_a_key_of_their_own(client):
    paths = (await client(services(keys={"a": "k"})).get("/openapi.json")).json()["paths"]
    admin = [o for path, methods in paths.items() if path.startswith("/v1/admin/") for o in methods.values()]
    assert len(admin) == 9
    for operation in admin:
        assert operation["security"] == [{"admin": []}, {"admin_api_key": []}]
        assert {"401", "403"} <= operation["responses"].keys()


async def test_with_keys_closed_routes_say_so(client):
    document = (await client(services(keys={"a": "k"})).get("/openapi.json")).json()
    chat, live = document["paths"]["/v1/chat/completions"]["post"], document["paths"]["/health/live"]["get"]
    assert chat["security"] == [{"bearer": []}, {"api_key": []}]
    assert "401" in chat["responses"]
    assert "security" not in live
    assert "401" not in live["responses"]


async def test_the_page_needs_nothing_from_elsewhere(client):
    response = await client().get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert re.findall(r"(?:https?:)?//[a-z]", response.text) == []
