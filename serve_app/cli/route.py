"""`jethro route`: the decision for a query, without an answer.

A decision in this process: the configured router over pools that are known by their config alone.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from serve_app.cli.options import DEFAULT_URL, UrlOption
from serve_app.config import Config
from serve_app.config.tree import PoolConfig
from serve_app.errors import PoolUnavailable
from serve_app.gateway.catalogue import Catalogue
from serve_app.pools.base import Answer, Call, Frame, PoolLoad
from serve_app.pools.factory import capabilities
from serve_app.types import Capabilities, Message, Price, Query


def route(
    question: Annotated[str, typer.Argument(help="The query to decide on.")],
    url: UrlOption = DEFAULT_URL,
    model: Annotated[str, typer.Option(help="`jethro`, or router-NAME-THRESHOLD.")] = "jethro",
    local: Annotated[bool, typer.Option("--local", help="Decide in this process; no endpoint needed.")] = False,
    config: Annotated[str | None, typer.Option(help="With --local: profile or YAML file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Show which model would answer a query, and why; no model is asked.

    \b
    Examples:
      jethro route "what is 12 + 30?"                           ask the running endpoint
      jethro route --local "what is 12 + 30?"                   no endpoint needed
      jethro route --local --model router-complexity-0.9 "..."  another threshold
      jethro route --local --json "reverse stone"               for scripts
    """
    import orjson

    from serve_app.cli.endpoint import explain_decision

    decision = _decide_here(question, model, config) if local else _ask(question, model, url)
    if json:
        typer.echo(orjson.dumps(decision, option=orjson.OPT_INDENT_2).decode())
    else:
        typer.echo(explain_decision(decision))


def _ask(question: str, model: str, url: str) -> dict[str, Any]:
    from serve_app.cli.endpoint import Endpoint
    from serve_app.config import caller_key

    endpoint = Endpoint(url, caller_key())
    try:
        return endpoint.route({"model": model, "messages": [{"role": "user", "content": question}]})
    finally:
        endpoint.close()


def _decide_here(question: str, model: str, source: str | None) -> dict[str, Any]:
    from serve_app.config import load

    return decide(load(source), model, question)


@dataclass(slots=True)
class DescribedPool:
    """A pool that can be decided on and never answers: no engine stands behind it."""

    name: str
    model: str
    price: Price
    capabilities: Capabilities

    def load(self) -> PoolLoad:
        """Nobody is there."""
        return PoolLoad(replicas=0, in_flight=0)

    def stream(self, query: Query, call: Call) -> AsyncGenerator[Frame, None]:
        """Raises PoolUnavailable."""
        raise PoolUnavailable(f"pool {self.name} is only described here: start the endpoint with `jethro serve`")

    async def complete(self, query: Query, call: Call) -> Answer:
        """Raises PoolUnavailable."""
        raise PoolUnavailable(f"pool {self.name} is only described here: start the endpoint with `jethro serve`")

    async def aclose(self) -> None:
        """Nothing to close."""


def decide(config: Config, model: str, question: str) -> dict[str, Any]:
    """The decision on a one-message query, as JSON-ready values.

    Raises ModelNotFound for an unknown `model`, ConfigError if the router cannot be had.
    """
    pools = {name: _described(name, pool) for name, pool in config.pools.items()}
    named = model.split("-")[1:2] if model.startswith("router-") else []
    routing = config.routing.model_copy(update={"offered": tuple(named)})  # no other router need be loaded
    config = config.model_copy(update={"routing": routing})
    strategy = Catalogue.from_config(config, pools).resolve(model)
    return asdict(asyncio.run(strategy.decide(Query(messages=(Message("user", question),)), "local")))


def _described(name: str, pool: PoolConfig) -> DescribedPool:
    price = Price(pool.price.input_usd_per_million, pool.price.output_usd_per_million)
    return DescribedPool(name, pool.model, price, capabilities(pool))
