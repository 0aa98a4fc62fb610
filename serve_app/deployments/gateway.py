"""Gateway: the router replica. A thin shell: the API is api/app.py, the pools are pools/http.py."""

import asyncio
import hmac
import logging
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.app import build_app
from serve_app.api.console.live import own_figures
from serve_app.api.reply import send_error
from serve_app.config import Config
from serve_app.deployments.learner import LearnerHandle
from serve_app.deployments.listeners import bind_to_node
from serve_app.deployments.pool import cluster_secret
from serve_app.deployments.request_ids import without_request_id
from serve_app.deployments.scorer import ScorerHandle
from serve_app.errors import RequestError, replica_reply
from serve_app.front.settings import PROOF_HEADER
from serve_app.front.settings import load as load_front
from serve_app.gateway.services import build_services
from serve_app.observability.process_log import log_to_stderr
from serve_app.pools.directory import Discover, Discovery, ReplicaReport
from serve_app.pools.factory import build_pool
from serve_app.pools.scrape import merged, scrape

logger = logging.getLogger("jethro.deployments")

_DESCRIBE_S = 1.0
_METRICS_S = 3.0  # Prometheus allows a scrape 10 s, in which the replicas are scraped as well


class GatewayReplica:
    """Builds the services from the config and the pools' handles, and serves the API's app."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        config: dict[str, Any],
        handles: dict[str, DeploymentHandle],
        scorer: DeploymentHandle | None = None,
        learner: DeploymentHandle | None = None,
    ) -> None:
        tree = Config.model_validate(config)
        here = serve.get_replica_context()
        self._replica, self._here = here.replica_id.unique_id, (here.deployment, here.app_name)
        log_to_stderr(tree.log.level, self._replica, content=tree.log.content)
        bind_to_node()
        secret = cluster_secret()
        timeout_s = tree.limits.request_timeout_s
        pools = {
            name: build_pool(name, pool, cluster_secret=secret, timeout_s=timeout_s)
            for name, pool in tree.pools.items()
        }
        loop = asyncio.get_running_loop()
        self._following = [
            loop.create_task(pools[name].directory.follow(_discover(handle))) for name, handle in handles.items()
        ] + [loop.create_task(pool.watch()) for pool in pools.values()]
        remote = ScorerHandle(scorer, tree.scorer.start_timeout_s) if scorer is not None else None
        streams = LearnerHandle(learner) if learner is not None else None
        # loads the routers, and torch with them: before the first request, and not on the loop
        services = await asyncio.to_thread(
            build_services, tree, pools, replica=self._replica, scorer=remote, learner=streams, remote_models=remote
        )
        self._services = replace(
            services,
            gateways=self._gateways,
            scrape=partial(scrape, pools.values()),
            live_gateways=self._live_gateways,
        )
        await self._services.start()

    def __serve_build_asgi_app__(self) -> Any:
        """The API; Serve calls this after the constructor."""
        return only_through_front(without_request_id(build_app(self._services)), load_front().token)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """The demand of this Gateway's decisions on every pool, for the policy that scales them."""
        return self._services.demand.rates(self._services.pools)

    async def own_metrics(self) -> tuple[str, str]:
        """This Gateway's name and its metrics."""
        return self._replica, self._services.recorder.text().decode()

    async def own_live(self) -> dict[str, Any]:
        """What this Gateway did of late."""
        return own_figures(self._services)

    async def end_requests(self) -> None:
        """End what is open with an error: the endpoint stops, and the time to finish is over."""
        for stop in list(self._services.stops):
            stop()

    async def _gateways(self) -> str:
        """Metrics of all Gateways: HAProxy sends a scrape to any one of them, and it answers for all."""
        try:
            async with asyncio.timeout(_METRICS_S):
                handle = serve.get_deployment_handle(*self._here)
                texts = await replica_reply(handle.broadcast("own_metrics").results_async())
        except Exception as e:  # a Gateway just died or hangs: then this one's alone
            logger.warning("metrics of this Gateway only: %s: %s", type(e).__name__, e)
            texts = [await self.own_metrics()]
        return merged({(("gateway", name),): text for name, text in texts})

    async def _live_gateways(self) -> list[dict[str, Any]]:
        """What all Gateways did of late: a request reaches any one of them, and it answers for all."""
        try:
            async with asyncio.timeout(_METRICS_S):
                handle = serve.get_deployment_handle(*self._here)
                return list(await replica_reply(handle.broadcast("own_live").results_async()))
        except Exception as e:  # a Gateway just died or hangs: then this one's alone
            logger.warning("live figures of this Gateway only: %s: %s", type(e).__name__, e)
            return [await self.own_live()]

    async def __del__(self) -> None:
        """Stop following, write what is queued, close the connections."""
        for task in self._following:
            task.cancel()
        await self._services.aclose()


def only_through_front(app: ASGIApp, token: str) -> ASGIApp:
    """The app for requests that carry this endpoint's token, which its HAProxy adds; without a token, for all."""
    expected, header = token.encode(), PROOF_HEADER.encode()

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = next((value for name, value in scope["headers"] if name == header), b"")
            if not hmac.compare_digest(given, expected):
                await send_error(send, RequestError("This port answers its own endpoint alone: use that address."), [])
                return
        await app(scope, receive, send)

    return checked if token else app


def _discover(handle: DeploymentHandle) -> Discover:
    """Reports of all running replicas, by broadcast. One that hangs or has just ended does not delay the others'."""

    async def discover() -> Discovery:
        try:
            # Serve's own gathering of the results waits for all of them, or drops all
            results = await handle.broadcast("describe")._fetch_replica_results_async()
        except DeploymentUnavailableError:  # none runs: the pool sleeps, or starts
            return Discovery()
        replies = [asyncio.ensure_future(replica_reply(result.get_async())) for result in results]
        _, late = await asyncio.wait(replies, timeout=_DESCRIBE_S) if replies else (set(), set())
        for reply in late:
            reply.cancel()
        reports = []
        for reply in replies:
            if reply in late:
                continue
            if (error := reply.exception()) is None:
                reports.append(ReplicaReport(**reply.result()))
            else:  # it has just ended, and Serve does not know yet
                name, kind = handle.deployment_name, type(error).__name__
                logger.warning("a replica of %s is left out: %s: %s", name, kind, error)
        return Discovery(reports, len(late))

    return discover
