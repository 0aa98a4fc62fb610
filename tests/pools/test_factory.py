"""What a pool can do, as far as the config and the model's own config.json show it."""

import json

import pytest

from serve_app.config.pools import PoolConfig
from serve_app.config.tree import Config
from serve_app.pools.factory import capabilities


def pool(**engine):
    return PoolConfig.model_validate({"model": "m", "engine": engine})


def seen(**engine):
    can = capabilities(pool(**engine))
    return can.vision, can.image_urls


REMOTE = {"kind": "openai", "urls": ["http://127.0.0.1:1/v1"]}


def test_an_upstream_sees_what_the_config_says():
    assert seen(**REMOTE)[0] is False
    assert seen(**REMOTE, vision=True) == (True, True)
    assert seen(**REMOTE, vision=True, image_urls=False) == (True, False)


def test_transformers_never_sees():
    assert seen(kind="transformers", path="lab:small") == (False, False)


@pytest.mark.parametrize(
    ("described", "sees"),
    [
        ({"model_type": "llama"}, False),
        ({"model_type": "llava", "vision_config": {"hidden_size": 4}}, True),
        ({"model_type": "phi3_v", "img_processor": {"name": "clip"}}, True),
        ({"model_type": "omni", "thinker_config": {"vision_config": {"depth": 2}}}, True),
        ({"model_type": "llama", "vision_config": None}, False),
        (["no object"], False),
    ],
)
def test_vllm_sees_if_the_model_does(tmp_path, described, sees):
    (tmp_path / "config.json").write_text(json.dumps(described), "utf-8")
    assert seen(kind="vllm", path=str(tmp_path)) == (sees, False)
    assert seen(kind="vllm", path=str(tmp_path), vision=not sees)[0] is not sees


def test_a_vllm_replica_fetches_from_named_hosts_alone(tmp_path):
    args = {"allowed_media_domains": ["pictures.example"]}
    assert seen(kind="vllm", path=str(tmp_path), vision=True, args=args) == (True, True)
    assert seen(kind="vllm", path=str(tmp_path)) == (False, False), "there is no config.json to say more"


@pytest.mark.parametrize(
    ("vision", "limits", "body_bytes"),
    [(False, {}, 1_048_576), (True, {}, 20_971_520), (True, {"body_bytes": 1000}, 1000), (True, {"n": 2}, 20_971_520)],
)
def test_bodies_have_room_for_images_where_a_pool_sees(vision, limits, body_bytes):
    small = {"model": "s", "engine": {"kind": "transformers", "path": "lab:small"}}
    pools = {"small": small, "large": {"model": "l", "engine": {**REMOTE, "vision": vision}}}
    config = Config.model_validate({"pools": pools, "limits": limits})
    assert config.limits.body_bytes == body_bytes
    assert Config.model_validate(config.model_dump()).limits == config.limits
