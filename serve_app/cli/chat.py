"""`jethro chat` and `jethro route`: answers streamed from a running endpoint, or the decision alone."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import DEFAULT_URL, UrlOption, connected, show_json
from serve_app.errors import JethroError

if TYPE_CHECKING:
    from serve_app.cli.endpoint import Endpoint

_COMMANDS = "/new starts over, exit or Ctrl-D ends"
_ENDS = ("exit", "quit", "/exit", "/quit")


@dataclass
class Conversation:
    """Turns so far and the parameters of the next; `messages` grows by each answered question."""

    model: str
    max_tokens: int | None
    temperature: float
    messages: list[dict[str, str]] = field(default_factory=list)

    def request(self, question: str) -> dict[str, Any]:
        """The request body for `question` after the turns so far."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [*self.messages, {"role": "user", "content": question}],
            "temperature": self.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body if self.max_tokens is None else {**body, "max_tokens": self.max_tokens}

    def remember(self, question: str, answer: str) -> None:
        """Append an answered question."""
        self.messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def chat(
    question: Annotated[str | None, typer.Argument(help="What to ask; without it a conversation starts.")] = None,
    url: UrlOption = DEFAULT_URL,
    model: Annotated[str, typer.Option(help="`jethro` decides; or a strategy or model of /v1/models.")] = "jethro",
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="0 takes the likeliest token.")] = 0.0,
) -> None:
    """Ask a running endpoint; shows which model answered and why.

    The answer goes to standard output, the explanation to standard error. A key is read from JETHRO_API_KEY.

    \b
    Examples:
      jethro chat "what is 40 + 2?"                 one answer
      jethro chat                                    a conversation
      jethro chat --model jlab-large "reverse stone" ask one model, no decision
      jethro chat --model router-random-0.5 "hello"  another router, with its threshold
    """
    start = [{"role": "system", "content": system}] if system else []
    conversation = Conversation(model, max_tokens, temperature, list(start))
    with connected(url) as endpoint:
        if question is not None:
            _ask(endpoint, conversation, question)
        else:
            _converse(endpoint, conversation, start)


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
      jethro route "what is 40 + 2?"                           ask the running endpoint
      jethro route --local "what is 40 + 2?"                   no endpoint needed
      jethro route --local --model router-complexity-0.9 "..."  another threshold
      jethro route --local --json "reverse stone"               for scripts
    """
    from serve_app.cli.endpoint import explain_decision

    if local:
        from serve_app.config import load
        from serve_app.gateway.preview import decide

        decision = decide(load(config), model, question)
    else:
        with connected(url) as endpoint:
            decision = endpoint.route({"model": model, "messages": [{"role": "user", "content": question}]})
    if json:
        show_json(decision)
    else:
        typer.echo(explain_decision(decision))


def _converse(endpoint: "Endpoint", conversation: Conversation, start: list[dict[str, str]]) -> None:
    typer.echo(f"{conversation.model} at {endpoint.url}; {_COMMANDS}", err=True)
    while True:
        try:
            question = input("> ").strip()
        except EOFError:
            typer.echo()
            return
        if question.lower() in _ENDS:
            return
        if question == "/new":
            conversation.messages = list(start)
        elif question.startswith("/"):
            typer.echo(f"no command {question}: {_COMMANDS}", err=True)
        elif question:
            _ask_once(endpoint, conversation, question)


def _ask_once(endpoint: "Endpoint", conversation: Conversation, question: str) -> None:
    """One turn of a conversation: an error or Ctrl-C ends the turn, not the conversation."""
    try:
        _ask(endpoint, conversation, question)
    except JethroError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
    except KeyboardInterrupt:
        typer.secho("\nstopped", fg="yellow", err=True)


def _ask(endpoint: "Endpoint", conversation: Conversation, question: str) -> None:
    from serve_app.cli.endpoint import explain_answer, printable

    decision: dict[str, Any] = {}
    pieces: list[str] = []
    for event in endpoint.stream(conversation.request(question)):
        decision.update(event.get("headers") or event.get("jethro") or {})
        if event.get("usage"):
            decision["usage"] = event["usage"]
        for choice in event.get("choices", ()):
            piece = choice.get("delta", {}).get("content") or ""
            pieces.append(piece)
            typer.echo(printable(piece), nl=False)
    typer.echo()
    conversation.remember(question, "".join(pieces))
    typer.secho(explain_answer(decision), dim=True, err=True)
