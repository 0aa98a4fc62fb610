"""Gateway: the router replica. A thin shell: the API is api/app.py, the pools are pools/http.py."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from serve_app.api.app import build_app
from serve_app.api.services import Services, build_services
from serve_app.config import Config
from serve_app.deployments.secret import cluster_secret
from serve_app.pools.directory import Discover, Report
from serve_app.pools.factory import build_pool

logger = logging.getLogger("ray.serve")


class GatewayReplica:
    """Builds the services from the config and the pools' handles, and serves the API's app."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: dict[str, Any], handles: dict[str, DeploymentHandle]
    ) -> None:
        tree = Config.model_validate(config)
        secret = cluster_secret()
        timeout_s = tree.limits.request_timeout_s
        pools = {
            name: build_pool(name, pool, cluster_secret=secret, timeout_s=timeout_s)
            for name, pool in tree.pools.items()
        }
        loop = asyncio.get_running_loop()
        self._following = [
            loop.create_task(pools[name].directory.follow(_discover(handle))) for name, handle in handles.items()
        ]
        replica = serve.get_replica_context().replica_id.unique_id
        self._services: Services = build_services(tree, pools, replica=replica)
        await self._services.start()

    def __serve_build_asgi_app__(self) -> Any:
        """The API; Serve calls this after the constructor."""
        return build_app(self._services)

    async def __del__(self) -> None:
        """Stop following, write what is queued, close the connections."""
        for task in self._following:
            task.cancel()
        await self._services.aclose()


def _discover(handle: DeploymentHandle) -> Discover:
    """Reports of all running replicas, by broadcast. Nobody running: ask one, which makes Serve start one."""

    async def discover() -> Sequence[Report]:
        described = await handle.broadcast("describe").results_async()
        return [Report(**d) for d in described]

    return discover
