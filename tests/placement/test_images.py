"""Where requests with images may go: they cannot be searched, and nothing can be replaced in them."""

from typing import Any

import pytest

from serve_app.errors import PlacementForbidden
from serve_app.gateway.services import placed_pools
from serve_app.guards.personal.detector import PersonalData
from serve_app.images import Image
from serve_app.placement.policy import PlacementPolicy
from serve_app.pools.attempt import lacking, why_skipped
from serve_app.types import Capabilities, Message, Query
from tests.api.fakes import FakePool
from tests.guards.fakes import CALL
from tests.placement.worlds import tree

PLACES = {"small": "local", "large": "private", "cloud": "public", "remote": "public"}
IMAGE = Image("data:image/png;base64,iVBORw0KGgo=", None, "messages.0.content.1.image_url")
SEEN = Query((Message.of("user", ["what is it?", IMAGE]),), tenant="a")
TEXT = Query((Message("user", "what is it?"),), tenant="a")


async def placed(query: Query, **placement: Any) -> Query:
    config = tree(PLACES, **placement)
    personal = PersonalData(config.placement.personal_data, {})
    return (await PlacementPolicy(config, personal).place(query, None, CALL)).query


async def test_where_nothing_is_looked_for_images_go_anywhere() -> None:
    assert (await placed(SEEN)).reach is None


async def test_where_personal_data_is_looked_for_an_image_counts_as_if_it_were_found() -> None:
    assert (await placed(TEXT, detected="local")).privacy == "any"
    found = await placed(SEEN, detected="local")
    assert (found.privacy, found.reach) == ("local", frozenset({"small"}))
    rule = {"detected": ["card"], "places": ["local", "private"]}
    assert (await placed(TEXT, rules=[rule])).reach is None
    assert (await placed(SEEN, rules=[rule])).reach == frozenset({"small", "large"})


@pytest.mark.parametrize(("images", "privacy"), [("any", "any"), ("private", "private"), ("local", "local")])
async def test_images_may_have_a_class_of_their_own(images: str, privacy: str) -> None:
    assert (await placed(SEEN, images=images, detected="private")).privacy == privacy
    assert (await placed(TEXT, images=images)).privacy == "any"


async def test_the_strictest_class_still_wins() -> None:
    assert (await placed(SEEN, images="any", default="local")).privacy == "local"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pool_of_redacted_text_sees_no_image_unless_the_config_says_so(stream: bool) -> None:
    for images, sees in (("refuse", False), ("pass", True)):
        config = tree(PLACES, redaction={"places": ["public"], "images": images})
        inner = FakePool("cloud", "m-cloud", capabilities=Capabilities(vision=True))
        personal = PersonalData(config.placement.personal_data, {})
        pool = placed_pools(config, {"cloud": inner}, personal)["cloud"]
        assert pool.capabilities.vision is sees
        lack = lacking(SEEN, pool)
        assert (lack is None) is sees
        if lack is not None:
            assert why_skipped("m-cloud", lack) == "m-cloud cannot see images"
        try:
            if stream:
                [_ async for _ in pool.stream(SEEN, CALL)]
            else:
                await pool.complete(SEEN, CALL)
        except PlacementForbidden as error:
            assert error.param == IMAGE.param
        assert bool(inner.queries) is sees


async def test_texts_around_images_are_redacted_in_their_place() -> None:
    config = tree(PLACES, redaction={"places": ["public"], "images": "pass", "instruct": False})
    inner = FakePool("cloud", "m-cloud", capabilities=Capabilities(vision=True))
    pool = placed_pools(config, {"cloud": inner}, PersonalData(config.placement.personal_data, {}))["cloud"]
    parts = ["I am jane.doe@example.com", IMAGE, "or bob@example.com"]
    await pool.complete(Query((Message.of("user", parts),)), CALL)
    [sent] = inner.queries
    assert sent.messages[0].parts == ("I am [EMAIL_1]", IMAGE, "or [EMAIL_2]")
    assert "jane" not in repr(sent) and "bob" not in repr(sent)
