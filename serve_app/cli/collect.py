"""`jethro data collect` and `jethro cascade collect`: every pool's answers to every query; resumed after a kill."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from serve_app.cli.options import SetOption, listed, parse_settings, say
from serve_app.errors import ConfigError
from serve_app.numbers import fixed, significant
from serve_app.types import Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from serve_app.cli.before_collecting import PriorOfQueries
    from serve_app.config import Config
    from serve_app.data.collection.lab import LabPlan
    from serve_app.data.collection.plan import CollectionPlan, CollectionProgress, LabeledQuery
    from serve_app.data.dataset import Dataset
    from serve_app.pools.base import Pool

_STOPPED = 130
"""A shell's exit code of a program that Ctrl-C ended."""
Half = Literal["learn", "measure"]
OutOption = Annotated[Path, typer.Option("--out", help="The Parquet file to write.")]
AnswersOption = Annotated[Path, typer.Option("--out", help="The file to write: .parquet, or .jsonl for one sample.")]
PromptsOption = Annotated[
    Path | None,
    typer.Option(help="JSON lines, CSV or Parquet: prompt or messages; reference, the right answer; optional id."),
]
LabOption = Annotated[int | None, typer.Option(min=1, help="Number of lab queries, unseen by the models.")]
HalfOption = Annotated[Half, typer.Option(help="Which half of the lab's queries.")]
ConfigOption = Annotated[
    str | None, typer.Option("--config", help="Profile or YAML file with the pools and their prices; default lab.")
]
PoolUrlOption = Annotated[
    str | None, typer.Option("--url", help="Endpoint whose pools to call. Default: run the engines in this process.")
]
TemperatureOption = Annotated[float, typer.Option(min=0.0, max=2.0, help="Sampling temperature.")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="Maximum tokens per answer.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Maximum number of queries (the log's newest).")]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Maximum concurrent calls.")]
VerdictsOption = Annotated[int, typer.Option(min=0, help="Self-verifications of every pool but the last.")]
SplitOption = Annotated[str, typer.Option(help="Name of the split that these rows belong to.")]
SkipSeenOption = Annotated[
    bool, typer.Option("--skip-seen", help="Leave out queries that the router learned from, instead of refusing.")
]
_ROUTER = "Router whose score is the prior: NAME, NAME@VERSION or a folder; '' for none. Default: the one that serves."
_ONLY_LAB = (
    "--batches needs --lab N, and takes no --prompts, --log, --url, --config, --set, --metric, --verdicts, "
    "--max-tokens or --per-call: the lab's models answer in this process, and are graded"
)
_BATCHES = "With --lab: its models answer in batches, without engines or a journal."
_EXTRA = "Extra answers of every pool but the last, for agreement."


def collect(
    out: AnswersOption,
    prompts: PromptsOption = None,
    log: Annotated[Path | None, typer.Option(help="A decision log that kept prompts (store.path).")] = None,
    lab: LabOption = None,
    half: HalfOption = "learn",
    config: ConfigOption = None,
    set_: SetOption = None,
    url: PoolUrlOption = None,
    pool: Annotated[list[str] | None, typer.Option(help="A pool of the config, weakest first; default all.")] = None,
    samples: Annotated[int, typer.Option("-n", min=1, help="Answers of each pool to each query.")] = 10,
    temperature: TemperatureOption = 1.0,
    max_tokens: MaxTokensOption = None,
    seed: Annotated[int | None, typer.Option(help="Draws the lab's queries and, if given, seeds the sampling.")] = None,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = 16,
    per_call: Annotated[int | None, typer.Option(min=1, help="Answers per call; default: limits.n.")] = None,
    metric: Annotated[str | None, typer.Option(help="Score by it at the end; default for --lab: lab.")] = None,
    logprobs: Annotated[int, typer.Option(min=0, max=20, help="Alternatives per token to record; 0: none.")] = 0,
    extra_samples: Annotated[int, typer.Option(min=0, help=_EXTRA)] = 0,
    verdicts: VerdictsOption = 0,
    prior: Annotated[str | None, typer.Option(help="Router whose score to record: NAME, NAME@VERSION, folder.")] = "",
    skip_seen: SkipSeenOption = False,
    split: SplitOption = "",
    batches: Annotated[bool, typer.Option("--batches", help=_BATCHES)] = False,
) -> None:
    """Collect several answers of every pool to every query; after a kill the same command resumes.

    A row of --prompts is {"prompt": "what is 2 + 2?", "reference": "4"}: --metric (number, choice, exact, ...) compares
    answers with the right one in `reference`. Without any, let a model judge: jethro data score OUT --metric judge.
    Finished calls are kept in OUT.journal: nothing is paid twice. A query that a pool refuses is left out. The key of
    --url is in JETHRO_API_KEY. Cascades need --logprobs 5, some signals --extra-samples or --verdicts too.

    \b
    Examples:
      jethro data collect --lab 500 --out lab.parquet                       the lab's models, in this process
      jethro data collect --prompts mine.jsonl --config my.yaml --metric number --out a.parquet
      jethro data collect --log var/jethro.sqlite3 --limit 2000 --url http://127.0.0.1:8000 --out a.parquet
    """
    from serve_app.cli.before_collecting import answerable, check_out, check_request, prior_of
    from serve_app.config import load
    from serve_app.data.collection.plan import CollectionPlan

    check_out(out, samples, journal_of(out))
    if batches:
        if lab is None or prompts or log or url or config or set_ or metric or verdicts or max_tokens or per_call:
            raise ConfigError(_ONLY_LAB)
        router = prior_of(prior, load(None))
        found = _lab_answers(lab, half, seed or 0, pool, (samples, temperature, logprobs, extra_samples), router)
        return _save(found.take(range(len(found))[:limit]), out, router, (split, half), {})
    settings, metric = load(config, settings=parse_settings(set_ or [])), metric or ("lab" if lab else None)
    check_request(settings, pool or (), metric, logprobs=logprobs > 0, instead=extra_samples > 0 or verdicts > 0)
    router, (queries, source) = prior_of(prior, settings), _queries(prompts, log, lab, half, seed or 0, limit)
    queries = answerable(queries, metric, router, skip_seen)
    sampling = Sampling(max_tokens, temperature, n=samples, seed=seed, logprobs=logprobs > 0, top_logprobs=logprobs)
    plan = CollectionPlan(sampling, concurrency, per_call or settings.limits.n)
    plan = replace(plan, extra_samples=extra_samples, verdicts=verdicts)
    found = collected(queries, source, plan, opened_pools(settings, url, pool or ()), out, metric)
    given = {"config": config, "set_": set_, "url": url, "registry": settings.routing.registry}
    _save(found, out, router, (split, half if lab else ""), given)


def collect_for_cascades(
    out: AnswersOption,
    prompts: PromptsOption = None,
    lab: LabOption = None,
    half: HalfOption = "learn",
    config: ConfigOption = None,
    set_: SetOption = None,
    url: PoolUrlOption = None,
    chain: Annotated[str | None, typer.Option(help="The config's pools, weakest first, comma-separated.")] = None,
    metric: Annotated[str | None, typer.Option(help="Grades answers against the reference: exact, number, ...")] = None,
    samples: Annotated[int, typer.Option(min=0, help=_EXTRA)] = 0,
    verdicts: VerdictsOption = 0,
    router: Annotated[str | None, typer.Option(help=_ROUTER)] = None,
    skip_seen: SkipSeenOption = False,
    split: SplitOption = "",
    temperature: TemperatureOption = 0.0,
    max_tokens: MaxTokensOption = None,
    seed: Annotated[int, typer.Option(help="Draws the lab's queries and the samples.")] = 0,
    limit: LimitOption = None,
    concurrency: ConcurrencyOption = 16,
) -> None:
    """Collect one graded answer of each pool to each query with log-probabilities: the data of `fit`.

    Short for `jethro data collect -n 1 --temperature 0 --logprobs 5 --prior ROUTER`. The file keeps the router's name
    and version: a chain fitted on it is served with that version. With --lab the models answer in batches in this
    process, and queries that the router learned from are left out.

    \b
    Examples:
      jethro cascade collect --lab 6000 --out lab.jsonl
      jethro cascade collect --prompts mine.jsonl --config my.yaml --chain small,large --metric exact --out a.jsonl
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; give another --out, or move it away")
    if (prompts is None) == (lab is None):
        raise ConfigError("give one of --prompts FILE and --lab N: the queries to answer")
    if lab is not None and (url is not None or config is not None or temperature or verdicts or metric):
        raise ConfigError(
            "--lab answers in this process at temperature 0: omit --url, --config, --metric, --verdicts, --temperature"
        )
    if prompts is not None and metric is None:
        raise ConfigError("--metric is missing: exact, number, ... grades the answers (see `jethro data score`)")
    shared: dict[str, Any] = {"out": out, "prompts": prompts, "lab": lab, "half": half, "config": config, "set_": set_}
    shared |= {"url": url, "temperature": temperature, "max_tokens": max_tokens, "seed": seed, "limit": limit}
    shared |= {"concurrency": concurrency, "metric": metric, "verdicts": verdicts, "split": split}
    shared |= {"skip_seen": skip_seen}
    pools = list(listed(chain or ""))
    if len(pools) == 1:
        raise ConfigError(f"--chain {pools[0]}: a chain has at least two pools, weakest first: --chain small,large")
    collect(**shared, pool=pools, samples=1, logprobs=5, extra_samples=samples, prior=router, batches=lab is not None)


def opened_pools(
    config: "Config", url: str | None, names: "Sequence[str]"
) -> "AbstractAsyncContextManager[dict[str, Pool]]":
    """The config's pools of these names (all, without any), run in this process or behind an endpoint."""
    from serve_app.config import caller_key
    from serve_app.data.collection.pools import pools_at, pools_here

    return pools_here(config, names) if url is None else pools_at(url, config, names, caller_key())


def _queries(
    prompts: Path | None, log: Path | None, lab: int | None, half: Half, seed: int, limit: int | None
) -> "tuple[list[LabeledQuery], dict[str, object]]":
    """The queries, and where they come from."""
    from serve_app.data.collection.plan import queries_from_file, queries_from_lab, queries_from_log

    if sum(source is not None for source in (prompts, log, lab)) != 1:
        raise ConfigError("give one of --prompts FILE, --log FILE and --lab N: the queries to answer")
    if prompts is not None:
        return queries_from_file(prompts, limit), {"source": prompts.name}
    if log is not None:
        return queries_from_log(log, limit), {"source": log.name}
    found = queries_from_lab(lab or 0, seed, half)[:limit]
    return found, {"source": "lab", "split": f"unseen, {half} half", "lab": lab}


def journal_of(out: Path) -> Path:
    """The file that keeps the finished calls of a collection."""
    return out.with_name(f"{out.name}.journal")


def collected(
    queries: "list[LabeledQuery]",
    source: "dict[str, object]",
    plan: "CollectionPlan",
    opened: "AbstractAsyncContextManager[dict[str, Pool]]",
    out: Path,
    metric: str | None,
) -> "Dataset":
    """The pools' answers, scored by the metric if there is one; Ctrl-C ends the program."""
    from serve_app.cli.progress import ProgressLine, progress_text
    from serve_app.data.collection.collect import collect as collect_answers
    from serve_app.grading import get_metric

    line, journal = ProgressLine(), journal_of(out)

    def report(now: "CollectionProgress") -> None:
        line.show(lambda: progress_text(now), last=now.done == now.total)

    async def run() -> "Dataset":
        async with opened as pools:
            found = await collect_answers(queries, pools, plan, journal=journal, report=report, about=source)
        return found if metric is None else await get_metric(metric).score(found, say)

    if journal.exists():
        typer.echo(f"resuming from {journal}", err=True)
    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        typer.echo("\nstopped; the same command resumes from here", err=True)
        raise typer.Exit(_STOPPED) from None


def _lab_answers(
    n: int,
    half: Half,
    seed: int,
    models: list[str] | None,
    sampling: tuple[int, float, int, int],
    router: "PriorOfQueries | None",
) -> "Dataset":
    """The lab models' answers to queries that the router has not learned from.

    `sampling`: samples, temperature, alternatives per token, and extra samples of each answer.
    """
    from serve_app.data.collection.lab import LabPlan, record_lab, unseen_queries
    from serve_app.lab import models_dir

    plan = LabPlan(n, half, seed, tuple(models or ("small", "large")), *sampling)
    there = sorted(path.name for path in models_dir().iterdir() if path.is_dir())
    if unknown := [name for name in plan.models if name not in there]:
        raise ConfigError(f"--chain: the lab has no model {unknown[0]!r}; there are {', '.join(there)}")
    known = _learned_in_lab(router, plan) if router is not None else frozenset[str]()
    if not unseen_queries(plan.n, plan.seed, plan.half, known):
        which = router.reference if router is not None else ""
        raise ConfigError(f"--lab {plan.n}: router {which} learned from all of these queries; give a larger number")
    return record_lab(models_dir(), replace(plan, without=known), say)


def _learned_in_lab(router: "PriorOfQueries", plan: "LabPlan") -> frozenset[str]:
    """Prompts of the plan that the router learned from: as its card says, or by their hashes."""
    from serve_app.data.collection.lab import unseen_queries
    from serve_app.data.collection.plan import queries_from_lab

    data = router.artefact.registered.card.get("data", {})
    known: set[str] = set()
    if plan.half == "learn" and data.get("source") == "lab" and "n" in data:
        known |= {item.prompt for item in unseen_queries(int(data["n"]), int(data["seed"]), "learn")}
    queries = queries_from_lab(plan.n, plan.seed, plan.half)
    return frozenset(known | {queries[at].query.text for at in router.learned_from(queries)})


def _save(
    found: "Dataset",
    out: Path,
    router: "PriorOfQueries | None",
    part: tuple[str, str],
    given: "Mapping[str, Any]",
) -> None:
    """Write the answers, with the router's scores and the split, and report what they are and what comes next.

    `part`: the split, and the half of the lab's queries; `given`: see `after_collecting`.
    """
    from math import isnan

    from serve_app.cli.start.next_step import after_collecting
    from serve_app.data.recorded import write_answers

    if router is not None:
        found = router.score(found)
    split, half = part
    write_answers(replace(found, splits=(split,) * len(found)) if split else found, out)
    if failed := found.about.get("failed"):
        typer.secho(f"{failed} queries are left out:", fg="yellow", err=True)
        for failure in found.about["failures"]:
            typer.echo(f"  {failure['id']} at {failure['pool']}: {failure['reason']}", err=True)
    if router is not None:
        typer.echo(f"  prior: the score of router {router.reference}")
    spent = found.about.get("spent_usd", 0.0)
    typer.echo(f"{out}: {len(found):,} queries, {', '.join(found.pools)}, ${fixed(spent, 4)} spent")
    scored = {name: pool.quality.mean() for name, pool in found.pools.items()}
    for name, pool in found.pools.items():
        if not isnan(scored[name]):
            typer.echo(f"  {name}: quality {fixed(scored[name], 4)}, {significant(pool.cost_usd.mean())} USD a query")
    after_collecting(found, out, split, half, given)
