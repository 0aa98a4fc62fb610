"""Ray Serve, and nothing else: thin shells over the plain parts.

`serve_app.deployments:build` is the application builder that Serve config files and `serve run` name.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serve_app.deployments.application import build

__all__ = ["build"]


def __getattr__(name: str) -> Any:
    if name == "build":
        # Serve's flags must be in the environment before ray.serve is imported
        from serve_app.config.environment import prepare_serve_environment

        prepare_serve_environment()
        from serve_app.deployments.application import build

        return build
    raise AttributeError(name)
