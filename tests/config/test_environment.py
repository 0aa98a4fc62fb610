"""What Serve must find in the environment, and that what the operator set is kept."""

from serve_app.config.environment import SERVE_ENVIRONMENT, prepare_serve_environment


def test_what_is_unset_is_set_and_what_is_set_is_kept():
    env = {"RAY_SERVE_ENABLE_HA_PROXY": "0"}
    prepare_serve_environment(env)
    assert env["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
    assert {k: v for k, v in env.items() if k != "RAY_SERVE_ENABLE_HA_PROXY"} == {
        k: v for k, v in SERVE_ENVIRONMENT.items() if k != "RAY_SERVE_ENABLE_HA_PROXY"
    }
