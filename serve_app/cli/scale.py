"""`jethro scale`: scaling rules compared on traces of traffic, before any replica is paid for."""

from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import new_group, write_report
from serve_app.cli.progress import ProgressLine
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve_app.autoscaling.comparison import Scenario
    from serve_app.autoscaling.traces import Trace

group = new_group(help="Compare rules that scale pools, on traces of traffic.")


@group.callback()
def _commands() -> None:
    """Compare rules that scale pools, on traces of traffic."""


@group.command()
def simulate(
    trace: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="poisson, bursts, diurnal, 'harder queries', ...; repeat it; default all."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay the calls of this decision log instead.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="Profile or YAML file: bounds of its small and large.")] = None,
    rate: Annotated[float, typer.Option(min=0.01, help="Queries a second, about.")] = 20.0,
    duration: Annotated[float, typer.Option(min=60, max=86_400, help="Length of a trace, seconds.")] = 3600.0,
    seed: Annotated[int, typer.Option(min=0, help="First seed of the traces.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="How often each trace is drawn; figures are means.")] = 1,
    slo: Annotated[float, typer.Option(min=0.001, help="A good answer's longest time to first token, seconds.")] = 1.0,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write scaling.json, .md and .png there.")] = None,
) -> None:
    """Replica-hours, time to first token, goodput and refusals under our policy, Serve's default, and two others.

    The policy is the very code that scales the real pools. A log brings its arrivals and, where it has enough answered
    calls, their times; without one, the times are those of a usual pair of models on GPUs.

    \b
    Examples:
      jethro scale simulate                                           seven traces, about a minute each
      jethro scale simulate --trace bursts --trace night --rate 50
      jethro scale simulate --config my.yaml --out report/            the bounds of your pools
      jethro scale simulate --log var/jethro.sqlite3 --config my.yaml your own traffic
    """
    from serve_app.autoscaling.comparison import compare, reference, runs_of
    from serve_app.autoscaling.report import plot, to_json, to_markdown
    from serve_app.config import load

    scenario = replace(reference(load(config) if config else None), slo_s=slo)
    if log is not None:
        if trace:
            raise ConfigError("--log and --trace contradict each other: keep one")
        scenario, drawn = _from_log(log, scenario)
    else:
        drawn = _drawn(trace or [], rate, duration, range(seed, seed + seeds))
    line, total, done = ProgressLine(), runs_of(scenario) * sum(len(kind) for kind in drawn), count(1)

    def report(what: str) -> None:
        number = next(done)
        line.show(lambda: f"{number} of {total} runs, {what}", last=number == total)

    found = [compare(kind, scenario, report) for kind in drawn]
    text = to_markdown(found, scenario)
    typer.echo(text)
    if out is not None:
        write_report(out, "scaling", to_json(found, scenario), text, lambda path: plot(found, path))


def _drawn(names: "Sequence[str]", rate: float, duration_s: float, seeds: range) -> "list[Sequence[Trace]]":
    """Each kind of trace, once for each seed."""
    from serve_app.autoscaling.traces import STANDARD, standard_traces

    if unknown := [name for name in names if name not in STANDARD]:
        raise ConfigError(f"--trace {unknown[0]}: choose from {', '.join(STANDARD)}")
    kinds = zip(*(standard_traces(duration_s, rate, seed) for seed in seeds), strict=True)
    return [kind for kind in kinds if not names or kind[0].name in names]


def _from_log(path: Path, scenario: "Scenario") -> "tuple[Scenario, list[Sequence[Trace]]]":
    """The scenario with the log's times, and its trace."""
    from serve_app.autoscaling.comparison import fitted
    from serve_app.autoscaling.traces import logged, trace_of

    calls = logged(path)
    scenario, counts = fitted(scenario, calls)
    for name, model in scenario.models.items():
        if name in counts:
            typer.echo(
                f"{name}: {model.prefill_s:.3f} s to the first token and {1e3 * model.token_s:.2f} ms a token, fitted "
                f"to {counts[name]:,} calls"
            )
        else:
            typer.echo(f"{name}: too few answered calls to fit its times; those of the usual model stand")
    return scenario, [[trace_of(calls, path.name, max(calls[-1].at_s + 1.0, 60.0))]]
