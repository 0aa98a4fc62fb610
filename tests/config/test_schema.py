"""The walk over the tree's fields that suggestions come from."""

import pytest

from serve_app.config.pools import PoolConfig
from serve_app.config.tree import Config
from serve_app.config.validation import known_keys


def test_the_top_knows_all_branches():
    assert known_keys([]) == sorted(Config.model_fields)


@pytest.mark.parametrize(
    ("path", "known", "unknown"),
    [
        (["pools", "anything"], "engine", "path"),
        (["pools", "anything", "engine", "vllm"], "tensor_parallel", "urls"),
        (["pools", "anything", "engine", "openai"], "urls", "path"),
        (["pools", "anything", "replicas"], "target_ongoing_requests", "model"),
        (["server", "keys", 0], "env", "port"),
    ],
)
def test_deeper_keys_are_found(path, known, unknown):
    keys = known_keys(path)
    assert known in keys
    assert unknown not in keys


def test_free_branches_and_wrong_paths_know_nothing():
    assert known_keys(["pools"]) == []
    assert known_keys(["pools", "a", "engine", "vllm", "args"]) == []
    assert known_keys(["nowhere", "at", "all"]) == []
    assert known_keys(["pools", "a"]) == sorted(PoolConfig.model_fields)
