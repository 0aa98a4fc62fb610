"""`jethro stream`: named streams of classification queries, learned online, on a running endpoint."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serve_app.cli.options import DEFAULT_URL, UrlOption, connected, listed, new_group, show_json
from serve_app.errors import ConfigError
from serve_app.numbers import percent, significant

group = new_group(help="Streams of classification queries, learned online from the LLM's answers.")

NameArgument = Annotated[str, typer.Argument(help="The stream; requests name it as the model jethro-stream-NAME.")]
LabelsOption = Annotated[str, typer.Option(help="Comma-separated labels.")]
ShareOption = Annotated[float | None, typer.Option(help="Share of the queries that reach the LLM.")]
MuOption = Annotated[float | None, typer.Option(help="Price of a unit of cost, instead of a share.")]
HorizonOption = Annotated[int | None, typer.Option(help="Number of queries over which the share is met.")]
ObjectiveOption = Annotated[
    Literal["accuracy", "balanced"],
    typer.Option(help="accuracy, over all queries; or balanced: the mean over labels of each one's recall."),
]
LevelsOption = Annotated[str, typer.Option(help="Comma-separated small models, weakest first.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@group.command()
def create(
    name: NameArgument,
    labels: LabelsOption,
    instruction: Annotated[str, typer.Option(help="The task, as the LLM is instructed.")],
    llm_share: ShareOption = None,
    mu: MuOption = None,
    horizon: HorizonOption = None,
    levels: LevelsOption = "logistic,encoder",
    objective: ObjectiveOption = "accuracy",
    llm_pool: Annotated[str, typer.Option(help="The pool that labels queries.")] = "large",
    reset: Annotated[bool, typer.Option("--reset", help="Start over, without what was learned.")] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Create a stream; for an existing one, change its budget.

    \b
    Examples:
      jethro stream create mood --labels joy,fear,anger --instruction "Name the writer's feeling." --llm-share 0.2
      jethro stream create spam --labels spam,ham --instruction "Is this mail spam?" --levels logistic --mu 0.001
    """
    given = {"name": name, "labels": list(listed(labels)), "instruction": instruction, "levels": list(listed(levels))}
    body = given | {"llm_pool": llm_pool, "objective": objective, "reset": reset} | budget_of(llm_share, mu, horizon)
    with connected(url) as endpoint:
        stream = endpoint.call("POST", "/v1/streams", body)
    typer.echo(f"stream {name}: request the model {stream['model']}; {budget_line(stream)}")


@group.command("list")
def list_streams(url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """List the streams with their main figures."""
    with connected(url) as endpoint:
        streams = endpoint.call("GET", "/v1/streams")["data"]
    if json:
        show_json(streams)
    elif not streams:
        typer.echo("no streams: create one with `jethro stream create`")
    for stream in [] if json else streams:
        figures = stream["figures"]
        shares = ", ".join(f"{level} {percent(part)}" for level, part in figures.get("share", {}).items())
        typer.echo(f"{stream['id']}: {stream['state']}, {figures.get('queries', 0):,} queries ({shares})")


@group.command()
def status(name: NameArgument, url: UrlOption = DEFAULT_URL, json: JsonOption = False) -> None:
    """Show a stream: who answers, how far the small models agree with the LLM, drift, losses."""
    with connected(url) as endpoint:
        stream = endpoint.call_stream("GET", name)
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
    """Change a stream's budget; what was learned stays."""
    with connected(url) as endpoint:
        stream = endpoint.call_stream("PATCH", name, budget_of(llm_share, mu, horizon))
    typer.echo(f"stream {name}: {budget_line(stream)}")


@group.command()
def delete(name: NameArgument, url: UrlOption = DEFAULT_URL) -> None:
    """Delete a stream and what it learned."""
    with connected(url) as endpoint:
        endpoint.call_stream("DELETE", name)
    typer.echo(f"stream {name} is deleted")


@group.command()
def replay(
    file: Annotated[Path, typer.Argument(help="JSON lines, CSV, TSV or plain lines of text; gzipped or not.")],
    stream: Annotated[str | None, typer.Option(metavar="NAME", help="The stream to query.")] = None,
    text: Annotated[str, typer.Option(metavar="COLUMN", help="Column of the texts.")] = "text",
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column of the true labels.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of rows.")] = None,
    shuffle: Annotated[int | None, typer.Option(metavar="SEED", help="Shuffle the rows first.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=512, help="Maximum concurrent requests.")] = 8,
    offline: Annotated[bool, typer.Option("--offline", help="Learn in this process; no endpoint, no LLM.")] = False,
    expert: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="With --offline: column of the LLM's labels.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="With --offline: comma-separated labels.")] = None,
    llm_share: ShareOption = None,
    mu: MuOption = None,
    horizon: HorizonOption = None,
    levels: LevelsOption = "logistic,encoder",
    objective: ObjectiveOption = "accuracy",
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
    if offline:  # before numpy is loaded: the learner's matrices are small, and threads would wait for each other
        from serve_app.config.environment import export

        export({"OPENBLAS_NUM_THREADS": "1"})
    from serve_app.cli.stream import replay as replaying

    columns = text, label, expert if offline else None
    if offline:
        if expert is None or labels is None:
            raise ConfigError("--offline needs --expert COLUMN (the LLM's labels) and --labels a,b,c")
        given = {"labels": listed(labels), "levels": listed(levels), "objective": objective}
        given |= budget_of(llm_share, mu, horizon)
        rows = replaying.rows_of(file, columns, listed(labels), limit, shuffle)
        score = replaying.offline(rows, given)
    else:
        if stream is None:
            raise ConfigError("give --stream NAME, or --offline")
        with connected(url) as endpoint:
            known = endpoint.call_stream("GET", stream).get("labels", [])
        rows = replaying.rows_of(file, columns, known, limit, shuffle)
        score = replaying.over_http(rows, known, stream, endpoint.url, concurrency)
    if json:
        show_json(score.to_json())
    else:
        typer.echo(replaying.summary(score))
    if score.failed:
        raise typer.Exit(1)


def budget_of(llm_share: float | None, mu: float | None, horizon: int | None) -> dict[str, Any]:
    """The budget's fields that are given."""
    given = {"llm_share": llm_share, "mu": mu, "horizon": horizon}
    return {key: value for key, value in given.items() if value is not None}


def budget_line(stream: dict[str, Any]) -> str:
    """A stream's budget in one line."""
    if "llm_share" not in stream:
        return f"its policy is not loaded here yet ({stream['state']})"
    if stream.get("mu") is not None:
        return f"a unit of cost has the price mu = {significant(stream['mu'])}"
    return f"at most {percent(stream['llm_share'])} of {stream['horizon']:,} queries reach the LLM"


def lines(stream: Mapping[str, Any]) -> Iterator[str]:
    """A stream's figures, most important first; error counts that are zero are left out."""
    yield f"stream {stream['id']} ({stream['model']}): {stream['state']}"
    yield f"  uid {stream['uid']}: the label `stream` in the metrics"
    if stream["error"]:
        yield f"  error: {stream['error']}"
    if not (figures := stream["figures"]):
        return
    yield f"  queries {figures['queries']:,}, of them " + ", ".join(
        f"{level} {percent(part)}" for level, part in figures["share"].items()
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


def _learner(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures.get("warming_up"):
        yield "  warming up: the LLM answers all"
    if figures.get("agreement") is not None:
        yield f"  agreement with the LLM in recent audits: {percent(figures['agreement'])}"
    for level, part in (figures.get("level_agreement") or {}).items():
        if part is not None:
            yield f"  {level} agrees with the LLM where both answered: {percent(part)}"
    if figures.get("drift_alarms"):
        yield f"  label drift detected: {figures['drift_alarms']:,}"
    if figures.get("drift_looks"):
        yield f"  drift alarms that were checked again: {figures['drift_looks']:,}"
