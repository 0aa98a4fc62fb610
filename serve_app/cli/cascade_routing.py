"""`jethro cascade fit-routing`: fit a cascade router, which may ask any model next and skip any."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.options import listed
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.cascade.base import Signal
    from serve_app.cascade.recorded import Recorded
    from serve_app.cascade.routing.router import CascadeRouter

_SIGNALS = "Commas; several are combined: logprobs (all that tokens tell), prior, mean_logprob, ...; or recorded."


def fit_routing(
    data: Annotated[Path, typer.Option("--data", help="Recorded answers, of `jethro cascade collect`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the fitted router; name it in cascade.routing.")],
    budget: Annotated[str, typer.Option(help="Mean cost a query: 0.0002 (USD), or 40% of the dearest model's.")],
    models: Annotated[str | None, typer.Option(help="Pools with commas; default all that are recorded.")] = None,
    signals: Annotated[str, typer.Option(help=_SIGNALS)] = "logprobs",
    prior_of: Annotated[
        str, typer.Option(help="The router whose recorded score the signal `prior` is.")
    ] = "complexity",
    encoder: Annotated[str | None, typer.Option(help="Read prompts before any answer: minilm, or a folder.")] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="A cascade: keep the order, skip none.")] = False,
    split: Annotated[str | None, typer.Option("--split", help="Only the rows of this split; default all.")] = None,
    seed: Annotated[int, typer.Option(help="Draws folds.")] = 0,
) -> None:
    """Fit a cascade router: estimates before and after each answer, and the price of cost that keeps a budget.

    \b
    Examples:
      jethro cascade fit-routing --data lab.jsonl --budget 40% --signals logprobs,prior --out var/cascades/routing
      jethro cascade fit-routing --data a.jsonl --models small,large --budget 0.0002 --encoder minilm --out var/r
    """
    from serve_app.cascade.judging import JudgePlan
    from serve_app.cascade.recorded import read
    from serve_app.cascade.routing.fitting import RoutingPlan
    from serve_app.cascade.routing.fitting import fit_routing as fit
    from serve_app.cascade.routing.saved import save_routing
    from serve_app.cascade.routing.supermodels import Form

    recorded = read(data)
    recorded = recorded if split is None else recorded.split(split)
    names = listed(models) if models else recorded.models
    judge = None if signals.strip() == "recorded" else JudgePlan(_signals(signals, prior_of), seed=seed)
    form: Form = "prefix" if in_order else "any"
    plan = RoutingPlan(names, _budget(budget, recorded, names), form, judge, encoder, seed=seed)
    router = fit(recorded, plan, lambda line: typer.echo(line, err=True))
    save_routing(router, out)
    typer.echo(f"{out}: {router.version}")
    _say(router)


def _say(router: "CascadeRouter") -> None:
    found = router.expected
    if router.data["fell_back"]:
        typer.echo("  a single model is better at this cost: the router asks single models, whatever they answer")
    typer.echo(f"  quality {found['quality']:.4f} (best model {found['strong_quality']:.4f}), held out")
    typer.echo(f"  {found['cost_usd']:.3g} USD a query of {router.data['budget_usd']:.3g}")
    asked = {name.removeprefix("reach:"): value for name, value in found.items() if name.startswith("reach:")}
    typer.echo("  asked: " + ", ".join(f"{pool} {100 * share:.1f} %" for pool, share in asked.items()))


def _budget(text: str, recorded: "Recorded", models: tuple[str, ...]) -> float:
    """US dollars a query. Raises ConfigError."""
    number, percent, rest = text.partition("%")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf") or rest.strip():
        raise ConfigError(f"--budget: {text!r} is neither US dollars a query (0.0002) nor a share (40%); give one")
    if not percent:
        return value
    return value / 100 * float(recorded.of(models).cost_usd.mean(0).max())


def _signals(text: str, prior_of: str) -> "tuple[Signal, ...]":
    """Signals by name; `logprobs` stands for all that tokens tell. Raises ConfigError."""
    from serve_app.cascade.judging import LOGPROB_SIGNALS
    from serve_app.cascade.signal_specs import UNTRAINED, signal_of

    found: list[Signal] = []
    for name in listed(text):
        if name == "logprobs":
            found += LOGPROB_SIGNALS
        elif name == "prior":
            found.append(signal_of({"name": name, "router": prior_of}, "--prior-of"))
        elif name in UNTRAINED:
            found.append(UNTRAINED[name]())
        else:
            raise ConfigError(f"signal {name!r} is not known: give logprobs, recorded, {', '.join(UNTRAINED)}")
    if not found:
        raise ConfigError("--signals: name at least one, or recorded")
    return tuple(found)
