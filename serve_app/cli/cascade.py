"""`jethro cascade`: fit a chain of models, or a cascade router, on collected answers; measure it, show it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serve_app.cli.collect import collect_for_cascades
from serve_app.cli.options import listed, new_group, say
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.cascade.base import Signal
    from serve_app.cascade.routing.router import CascadeRouter
    from serve_app.data.recorded import Recorded

DataOption = Annotated[Path, typer.Option("--data", help="Answers of `jethro cascade collect` or `data collect`.")]
ChainFolderOption = Annotated[Path, typer.Option("--out", help="Folder for the fitted chain; name it in the config.")]
TargetOption = Annotated[
    str, typer.Option("--target", help="quality-drop=0.01, strong-share=0.5 or cost=0.0002 (USD a query).")
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only the rows of this split; default all.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Draws folds.")]


def fit_automix(
    data: Annotated[Path, typer.Option("--data", help="Answers of `jethro cascade collect --verdicts 8`.")],
    out: ChainFolderOption,
    target: TargetOption,
    chain: Annotated[str | None, typer.Option(help="The small and the large pool; default as recorded.")] = None,
    decider: Annotated[
        Literal["threshold", "double-threshold", "pomdp"], typer.Option(help="How verdicts become a decision.")
    ] = "pomdp",
    signal: Annotated[str, typer.Option(help="self_verification or agreement: a fraction.")] = "self_verification",
    split: SplitOption = None,
    seed: SeedOption = 0,
) -> None:
    """Fit AutoMix: queries hopeless for both models are not escalated, by the small model's own verdicts.

    \b
    Examples:
      jethro cascade fit-automix --data a.jsonl --chain small,large --target strong-share=0.3 --out var/cascades/mix
      jethro cascade fit-automix --data a.jsonl --decider double-threshold --target cost=0.0002 --out var/cascades/mix
    """
    from serve_app.cascade.artefact import save_chain
    from serve_app.cascade.fitting.automix import AutoMixPlan
    from serve_app.cascade.fitting.automix import fit_automix as fit
    from serve_app.cascade.signals.specs import UNTRAINED
    from serve_app.decision.target import Target

    if signal not in UNTRAINED:
        raise ConfigError(f"signal {signal!r} is not known: give self_verification or agreement")
    recorded = _recorded(data, split)
    names = listed(chain) if chain else recorded.models
    fitted = fit(recorded, AutoMixPlan(names, Target.parse(target), decider, UNTRAINED[signal](), seed=seed))
    save_chain(fitted, out)
    typer.echo(f"{out}: {fitted.chain.version}, {decider}")
    show(out)


_ROUTING_SIGNALS = "Commas; several are combined: logprobs (all of tokens), prior, mean_logprob, ...; or recorded."


def fit_routing(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the fitted router; name it in cascade.routing.")],
    budget: Annotated[str, typer.Option(help="Mean cost a query: 0.0002 (USD), or 40% of the dearest model's.")],
    models: Annotated[str | None, typer.Option(help="Comma-separated pools; default all that are recorded.")] = None,
    signals: Annotated[str, typer.Option(help=_ROUTING_SIGNALS)] = "logprobs",
    prior_of: Annotated[
        str, typer.Option(help="The router whose recorded score the signal `prior` is.")
    ] = "complexity",
    encoder: Annotated[str | None, typer.Option(help="Read prompts before any answer: minilm, or a folder.")] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="A cascade: keep the order, skip none.")] = False,
    split: SplitOption = None,
    seed: SeedOption = 0,
) -> None:
    """Fit a cascade router: estimates before and after each answer, and the price of cost that meets a budget.

    \b
    Examples:
      jethro cascade fit-routing --data lab.jsonl --budget 40% --signals logprobs,prior --out var/cascades/routing
      jethro cascade fit-routing --data a.jsonl --models small,large --budget 0.0002 --encoder minilm --out var/r
    """
    from serve_app.cascade.fitting.confidence import ConfidencePlan
    from serve_app.cascade.routing.fitting import RoutingPlan
    from serve_app.cascade.routing.fitting import fit_routing as fit
    from serve_app.cascade.routing.router import save_routing
    from serve_app.cascade.routing.supermodels import Form

    recorded = _recorded(data, split)
    names = listed(models) if models else recorded.models
    chosen = None if signals.strip() == "recorded" else _signals(signals, prior_of)
    confidence = None if chosen is None else ConfidencePlan(chosen, seed=seed)
    form: Form = "prefix" if in_order else "any"
    plan = RoutingPlan(names, _budget(budget, recorded, names), form, confidence, encoder, seed=seed)
    router = fit(recorded, plan, say)
    save_routing(router, out)
    typer.echo(f"{out}: {router.version}")
    _say(router)


def _say(router: "CascadeRouter") -> None:
    found = router.expected
    if router.data["fell_back"]:
        typer.echo("  a single model is better at this cost: the router calls single models, whatever they answer")
    typer.echo(f"  quality {found['quality']:.4f} (best model {found['strong_quality']:.4f}), held out")
    typer.echo(f"  {found['cost_usd']:.3g} USD a query of {router.data['budget_usd']:.3g}")
    calls = {name.removeprefix("reach:"): value for name, value in found.items() if name.startswith("reach:")}
    typer.echo("  called: " + ", ".join(f"{pool} {100 * share:.1f} %" for pool, share in calls.items()))


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


group = new_group(help="Fit and measure cascades: call the weak model first, escalate where its answer looks wrong.")
group.command("collect")(collect_for_cascades)
group.command("fit-routing")(fit_routing)
group.command("fit-automix")(fit_automix)

_CALIBRATOR = "logistic, isotonic, blended, or auto: held-out figures choose. Default: blended for one signal alone."
_AWARE = (
    "Doubt per dollar. Default: for a cost target, unless held-out figures are surely better without; else reversed."
)
_SIGNALS = "Commas; several are combined: logprobs (all of tokens), prior, mean_logprob, agreement, ..."


@group.command()
def fit(
    data: DataOption,
    out: ChainFolderOption,
    target: TargetOption,
    chain: Annotated[
        str | None, typer.Option(help="Comma-separated pools, weakest first; default as recorded.")
    ] = None,
    choose: Annotated[bool, typer.Option("--choose", help="Take the best of these pools, in order of cost.")] = False,
    levels: Annotated[int, typer.Option(min=2, help="With --choose: maximum number of levels.")] = 3,
    signals: Annotated[str, typer.Option(help=_SIGNALS)] = "logprobs,prior",
    scorer: Annotated[str | None, typer.Option(help="Train an answer scorer: minilm, or a folder.")] = None,
    calibrator: Annotated[str | None, typer.Option(help=_CALIBRATOR)] = None,
    cost_aware: Annotated[bool | None, typer.Option("--cost-aware/--no-cost-aware", help=_AWARE)] = None,
    probe_tokens: Annotated[
        int | None, typer.Option(min=1, help="Number of first tokens that signals read (streaming).")
    ] = None,
    split: SplitOption = None,
    confidence_is: Annotated[str | None, typer.Option(help="The signal that recorded `conf` values are.")] = None,
    seed: SeedOption = 0,
) -> None:
    """Fit a chain: signals, calibration and thresholds, with held-out figures; refused if one model is better.

    \b
    Examples:
      jethro cascade fit --data lab.jsonl --chain small,large --target quality-drop=0.01 --out var/cascades/mine
      jethro cascade fit --data lab.jsonl --target strong-share=0.4 --probe-tokens 2 --out var/cascades/stream
      jethro cascade fit --data a.jsonl --choose --target cost=0.0002 --signals mean_logprob --out var/cascades/c
    """
    from itertools import product

    from serve_app.cascade.artefact import save_chain
    from serve_app.cascade.fitting.confidence import ConfidencePlan
    from serve_app.cascade.fitting.fit import ChainPlan, fit_chain
    from serve_app.cascade.signals.calibration import FITS
    from serve_app.decision.target import COST, Target

    recorded = _recorded(data, split)
    names = listed(chain) if chain else recorded.models
    aim, chosen = Target.parse(target), _signals(signals)
    if confidence_is is not None and confidence_is not in (signal.name for signal in chosen):
        raise ConfigError(f"--confidence-is {confidence_is}: it is none of --signals {signals}; name it there too")
    usual = "blended" if len(chosen) == 1 and scorer is None else "logistic"  # of several there are log-odds already
    calibrators = tuple(dict.fromkeys((usual, *FITS))) if calibrator == "auto" else (calibrator or usual,)
    aware = ((True, False) if aim.name == COST else (False, True)) if cost_aware is None else (cost_aware,)
    plans = [ConfidencePlan(chosen, c, scorer, probe_tokens, a, seed) for c, a in product(calibrators, aware)]
    plan = ChainPlan(
        models=names,
        target=aim,
        confidence=plans[0],
        alternatives=tuple(plans[1:]),
        choose=choose,
        most_levels=levels,
        confidence_is=confidence_is,
        seed=seed,
    )
    fitted = fit_chain(recorded, plan, say)
    save_chain(fitted, out)
    typer.echo(f"{out}: {fitted.chain.version}")
    show(out)


@group.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="The folder of a fitted chain.")],
    data: DataOption,
    split: SplitOption = None,
    force: Annotated[bool, typer.Option("--force", help="Even on the data that it was fitted on.")] = False,
) -> None:
    """Measure a fitted chain on other recorded answers: quality, cost, shares, how well each level knows itself.

    \b
    Example:
      jethro cascade evaluate var/cascades/mine --data measure.jsonl
    """
    from serve_app.cascade.artefact import load_fitted
    from serve_app.cascade.fitting.evaluation import held_out_of, replay_of, signal_qualities
    from serve_app.cascade.fitting.fit import expected

    fitted = load_fitted(folder)
    recorded = _recorded(data, split)
    if fitted.data.get("digest") == recorded.digest() and not force:
        raise ConfigError(f"{data}: {folder} was fitted on these answers; give others, or --force")
    replay = replay_of(fitted.chain, recorded)
    found = held_out_of(fitted.chain, replay)
    _say_figures(expected(found, recorded, found.models))
    for level in signal_qualities(fitted.chain, replay):
        typer.echo(f"  {level.pool}: AUC {level.auc:.3f}, calibration error {level.calibration_error:.3f}")


@group.command()
def show(folder: Annotated[Path, typer.Argument(help="The folder of a fitted chain.")]) -> None:
    """Show a fitted chain: levels, signals, thresholds, and expected figures."""
    from serve_app.cascade.artefact import load_fitted
    from serve_app.cascade.signals.specs import parts_of

    fitted = load_fitted(folder)
    chain = fitted.chain
    what = "whole answers" if chain.probe_tokens is None else f"the first {chain.probe_tokens} tokens"
    typer.echo(f"{chain.version}, reads {what}, fitted for {fitted.target or 'no target'}")
    for number, level in enumerate(chain.levels):
        model = f" ({chain.models[number]})" if chain.models else ""
        if level.signal is None:
            typer.echo(f"  {level.pool}{model}: always taken")
            continue
        names = ", ".join(dict.fromkeys(part.name for part in parts_of(level.signal)))
        typer.echo(f"  {level.pool}{model}: taken at {level.threshold:.4f} and above, by {level.signal.name} ({names})")
    try:
        if chain.expected:
            _say_figures(chain.expected)
    except KeyError as e:
        raise ConfigError(f"{folder}: expected has no {e.args[0]}; fit the cascade again, or empty it") from None


def _say_figures(found: Mapping[str, float]) -> None:
    strong = found.get("strong_cost_usd", 0.0)
    of_strong = f" ({100 * found['cost_usd'] / strong:.0f} % of always the last)" if strong else ""
    typer.echo(f"  quality {found['quality']:.4f}, {found['cost_usd']:.3g} USD a query{of_strong}")
    if "quality_drop" in found:
        low, high = found["quality_drop_low"], found["quality_drop_high"]
        typer.echo(
            f"  {100 * found['strong_share']:.1f} % call the last level; quality drop against it "
            f"{100 * found['quality_drop']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
        )
    shares = {name.removeprefix("share:"): value for name, value in found.items() if name.startswith("share:")}
    typer.echo("  answered by " + ", ".join(f"{pool} {100 * share:.1f} %" for pool, share in shares.items()))


def _signals(text: str, prior_of: str | None = None) -> "tuple[Signal, ...]":
    """Signals by name; `logprobs` are all log-probability signals, `prior` is the score of the router `prior_of`.

    Raises ConfigError for an unknown name, or none.
    """
    from serve_app.cascade.fitting.confidence import LOGPROB_SIGNALS
    from serve_app.cascade.signals.specs import UNTRAINED, signal_of

    found: list[Signal] = []
    for name in listed(text):
        if name == "logprobs":
            found += LOGPROB_SIGNALS
        elif name == "prior" and prior_of is not None:
            found.append(signal_of({"name": name, "router": prior_of}, "--prior-of"))
        elif name in UNTRAINED:
            found.append(UNTRAINED[name]())
        else:
            other = "recorded" if prior_of is not None else "or --scorer minilm"
            raise ConfigError(f"signal {name!r} is not known: give logprobs, {', '.join(UNTRAINED)}, {other}")
    if not found:
        raise ConfigError("--signals: name at least one")
    return tuple(found)


def _recorded(path: Path, split: str | None) -> "Recorded":
    """The collected answers, or a split of them."""
    from serve_app.data.recorded import read

    found = read(path)
    return found if split is None else found.split(split)
