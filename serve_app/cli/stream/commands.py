"""`jethro stream`: named streams of classification queries, learned online, on a running endpoint.

A stream's figures as lines for people.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import DEFAULT_URL, UrlOption, listed, new_group
from serve_app.cli.stream.client import asking, stream_path
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    pass

group = new_group(help="Streams of classification queries, learned online from the LLM's answers.")

NameArgument = Annotated[str, typer.Argument(help="The stream; it is asked for as jethro-stream-NAME.")]
LabelsOption = Annotated[str, typer.Option(help="The labels, with commas between.")]
ShareOption = Annotated[float | None, typer.Option(help="Share of the queries that reach the LLM.")]
MuOption = Annotated[float | None, typer.Option(help="Instead of a share: the price of a unit of cost.")]
HorizonOption = Annotated[int | None, typer.Option(help="Queries over which the share is kept as a whole.")]
LevelsOption = Annotated[str, typer.Option(help="Small models, weakest first.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command()
def create(
    name: NameArgument,
    labels: LabelsOption,
    instruction: Annotated[str, typer.Option(help="Tells the LLM the task.")],
    llm_share: ShareOption = None,
    mu: MuOption = None,
    horizon: HorizonOption = None,
    levels: LevelsOption = "logistic,encoder",
    llm_pool: Annotated[str, typer.Option(help="The pool that is asked for labels.")] = "large",
    reset: Annotated[bool, typer.Option("--reset", help="Begin anew, without what was learned.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Make a stream; the same one again changes its budget alone.

    \b
    Examples:
      jethro stream create mood --labels joy,fear,anger --instruction "Name the writer's feeling." --llm-share 0.2
      jethro stream create spam --labels spam,ham --instruction "Is this mail spam?" --levels logistic --mu 0.001
    """
    told = {"name": name, "labels": list(listed(labels)), "instruction": instruction, "levels": list(listed(levels))}
    body = told | {"llm_pool": llm_pool, "reset": reset} | budget_of(llm_share, mu, horizon)
    with asking(url) as endpoint:
        stream = endpoint.call("POST", "/v1/streams", body)
    typer.echo(f"stream {name}: ask for the model {stream['model']}; {budget_line(stream)}")


@group.command("list")
def list_streams(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """List the streams with their main figures."""
    with asking(url) as endpoint:
        streams = endpoint.call("GET", "/v1/streams")["data"]
    if json:
        show_json(streams)
    elif not streams:
        typer.echo("no streams: make one with `jethro stream create`")
    for stream in [] if json else streams:
        figures = stream["figures"]
        shares = ", ".join(f"{level} {part:.1%}" for level, part in figures.get("share", {}).items())
        typer.echo(f"{stream['id']}: {stream['state']}, {figures.get('queries', 0):,} queries ({shares})")


@group.command()
def status(name: NameArgument, url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show a stream: who answers, how far the small models agree with the LLM, drift, losses."""

    with asking(url) as endpoint:
        stream = endpoint.call("GET", stream_path(name))
    if json:
        show_json(stream)
    else:
        typer.echo("\n".join(lines(stream)))


@group.command()
def budget(
    name: NameArgument,
    llm_share: ShareOption = None,
    mu: MuOption = None,
    horizon: HorizonOption = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Give a stream another budget; what was learned stays."""
    with asking(url) as endpoint:
        stream = endpoint.call("PATCH", stream_path(name), budget_of(llm_share, mu, horizon))
    typer.echo(f"stream {name}: {budget_line(stream)}")


@group.command()
def delete(name: NameArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Forget a stream and all that was learned."""
    with asking(url) as endpoint:
        endpoint.call("DELETE", stream_path(name))
    typer.echo(f"stream {name} is deleted")


@group.command()
def replay(
    file: Annotated[Path, typer.Argument(help="JSON lines, CSV, TSV or plain lines of text; gzipped or not.")],
    stream: Annotated[str | None, typer.Option(metavar="NAME", help="The stream that is asked.")] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the texts.")] = "text",
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the true labels.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows.")] = None,
    shuffle: Annotated[int | None, typer.Option(metavar="SEED", help="Shuffle the rows first.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Requests at once.")] = 8,
    offline: Annotated[bool, typer.Option("--offline", help="Learn in this process; no endpoint, no LLM.")] = False,
    expert: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --offline: column of the LLM's labels.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="With --offline: the labels, with commas between.")] = None,
    llm_share: ShareOption = None,
    mu: MuOption = None,
    levels: LevelsOption = "logistic,encoder",
    url: UrlOption = DEFAULT_URL,
    json: JsonOption = False,
) -> None:
    """Send a file of texts through a stream: accuracy, and the share of queries that reached the LLM.

    \b
    Examples:
      jethro stream replay mails.csv --stream spam --text body --label kind
      jethro stream replay isear.jsonl.gz --offline --label label --expert gpt35 --shuffle 42 --llm-share 0.2 \\
          --labels joy,sadness,anger,guilt,shame,fear,disgust
    """
    from serve_app.cli.stream import replay as replaying
    from serve_app.streams.replay import Columns

    source = replaying.Source(file, Columns(text, label, expert if offline else None), limit, shuffle)
    if offline:
        if expert is None or labels is None:
            raise ConfigError("--offline needs --expert COLUMN (the LLM's labels) and --labels a,b,c")
        told = {"labels": list(listed(labels)), "levels": list(listed(levels)), **budget_of(llm_share, mu, None)}
        score = replaying.offline(source, told)
    else:
        if stream is None:
            raise ConfigError("give --stream NAME, or --offline")
        score = replaying.over_http(source, stream, url, concurrency)
    if json:
        show_json(score.to_json())
    else:
        typer.echo(replaying.summary(score))
    if score.failed:
        raise typer.Exit(1)


def budget_of(llm_share: float | None, mu: float | None, horizon: int | None) -> dict[str, Any]:
    """What is given of a budget."""
    told = {"llm_share": llm_share, "mu": mu, "horizon": horizon}
    return {key: value for key, value in told.items() if value is not None}


def budget_line(stream: dict[str, Any]) -> str:
    """A stream's budget in words."""
    if "llm_share" not in stream:
        return f"its policy is not taken up here yet ({stream['state']})"
    if stream.get("mu") is not None:
        return f"a unit of cost has the price mu = {stream['mu']:g}"
    return f"at most {stream['llm_share']:.1%} of {stream['horizon']:,} queries reach the LLM"


def show_json(value: object) -> None:
    """Indented JSON on standard output."""
    import orjson

    typer.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def lines(stream: Mapping[str, Any]) -> Iterator[str]:
    """What matters first; counts that are zero and mean trouble are left out."""
    yield f"stream {stream['id']} ({stream['model']}): {stream['state']}"
    if stream["error"]:
        yield f"  error: {stream['error']}"
    figures = stream["figures"]
    if not figures:
        return
    yield f"  queries {figures['queries']:,}, of them " + ", ".join(
        f"{level} {part:.1%}" for level, part in figures["share"].items()
    )
    yield f"  labels learned {figures['labelled']:,}, policy version {figures['version']:,}"
    yield from _learner(figures["learner"])
    for key, words in _TROUBLE.items():
        if figures[key]:
            yield f"  {words}: {figures[key]:,}"


_TROUBLE: Mapping[str, str] = {
    "unparsed": "LLM answers that named no label",
    "failed": "queries that the LLM failed",
    "lost": "events lost in Gateways (queue full)",
    "refused": "events that could not be learned from",
    "corrupt": "checkpoints or journal lines that could not be read",
}


def _learner(told: Mapping[str, Any]) -> Iterator[str]:
    if told.get("warming_up"):
        yield "  warming up: the LLM answers all"
    if told.get("agreement") is not None:
        yield f"  agreement with the LLM in audits, of late: {told['agreement']:.1%}"
    for level, part in (told.get("level_agreement") or {}).items():
        if part is not None:
            yield f"  {level} agrees with the LLM, where that was asked: {part:.1%}"
    if told.get("drift_alarms"):
        yield f"  changes of the labels that were noticed: {told['drift_alarms']:,}"
    if told.get("drift_looks"):
        yield f"  alarms that were looked at twice: {told['drift_looks']:,}"
