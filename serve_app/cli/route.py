"""`jethro route`: the decision for a query, without an answer."""

from typing import Annotated, Any

import typer

from serve_app.cli.options import DEFAULT_URL, UrlOption


def route(
    question: Annotated[str, typer.Argument(help="The query to decide on.")],
    url: UrlOption = DEFAULT_URL,
    model: Annotated[str, typer.Option(help="`jethro`, or router-NAME-THRESHOLD.")] = "jethro",
    local: Annotated[bool, typer.Option("--local", help="Decide in this process; no endpoint needed.")] = False,
    config: Annotated[str | None, typer.Option(help="With --local: profile or YAML file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Show which model would answer a query, and why; no model is called.

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
    from serve_app.gateway.preview import decide

    return decide(load(source), model, question)
