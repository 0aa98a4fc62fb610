"""`jethro cascade`: fit a chain of models, or a cascade router, on collected answers; measure it, show it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serve_app.cli.cascade.data import matching_answers, recorded_answers, with_signals
from serve_app.cli.cascade.report import say_chain, say_fitted_routing, say_routing
from serve_app.cli.collect import collect_for_cascades
from serve_app.cli.options import REGISTRY, listed, new_group, say
from serve_app.cli.router.report import RegistryOption
from serve_app.errors import ConfigError, DataError
from serve_app.numbers import fixed, significant

if TYPE_CHECKING:
    from serve_app.data.recorded import Recorded

DataOption = Annotated[Path, typer.Option("--data", help="Answers of `jethro cascade collect` or `data collect`.")]
ChainFolderOption = Annotated[Path, typer.Option("--out", help="Folder for the fitted chain; name it in the config.")]
TargetOption = Annotated[
    str, typer.Option("--target", help="quality-drop=0.01, strong-share=0.5 or cost=0.0002 (USD a query).")
]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only the rows of this split; default all.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Draws folds.")]
ConfidenceIsOption = Annotated[
    str | None, typer.Option("--confidence-is", help="The signal that recorded `conf` values are.")
]
PriorOfOption = Annotated[
    str | None,
    typer.Option(help="Score the queries with this router: NAME, NAME@VERSION or a folder. Default: as recorded."),
]


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
    recorded = recorded_answers(data, split)
    names = listed(chain) if chain else recorded.models
    fitted = fit(recorded, AutoMixPlan(names, Target.parse(target), decider, UNTRAINED[signal](), seed=seed))
    save_chain(fitted, out)
    typer.echo(f"{out}: {fitted.chain.version}, {decider}")
    show(out)


_SIGNALS = (
    "Commas; several are combined: logprobs (all of tokens), prior, mean_logprob, agreement, ..., or recorded: the "
    "file's confidences, to compare with, not to serve."
)
_FALL_BACK = "Save a router that calls single models, whatever they answer, where that is better."


def fit_routing(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for the fitted router; name it in cascade.routing.")],
    budget: Annotated[str, typer.Option(help="Mean cost a query: 0.0002 (USD), or 40% of the dearest model's.")],
    models: Annotated[str | None, typer.Option(help="Comma-separated pools; default all that are recorded.")] = None,
    signals: Annotated[str, typer.Option(help=_SIGNALS)] = "logprobs",
    prior_of: PriorOfOption = None,
    confidence_is: ConfidenceIsOption = None,
    encoder: Annotated[str | None, typer.Option(help="Read prompts before any answer: minilm, or a folder.")] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="A cascade: keep the order, skip none.")] = False,
    fall_back: Annotated[bool, typer.Option("--fall-back", help=_FALL_BACK)] = False,
    registry: RegistryOption = REGISTRY,
    split: SplitOption = None,
    seed: SeedOption = 0,
) -> None:
    """Fit a cascade router: estimates before and after each answer, and the price of cost that meets a budget.

    Refused where single models are better at its cost, on queries that it was not fitted on.

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

    recorded, chosen = with_signals(signals, recorded_answers(data, split), prior_of, confidence_is, registry)
    names = listed(models) if models else recorded.models
    raw = [signal.name for signal in chosen] == ["recorded"]
    confidence = None if raw else ConfidencePlan(chosen, seed=seed)
    form: Form = "prefix" if in_order else "any"
    usd = _budget(budget, recorded, names)
    plan = RoutingPlan(names, usd, form, confidence, encoder, confidence_is=confidence_is, seed=seed)
    router = fit(recorded, plan, say)
    if router.data["fell_back"] and not fall_back:
        raise DataError(
            f"at {significant(usd)} USD a query single models are better than any route between {', '.join(names)} "
            "that these answers support: give another --budget, other --signals or --models, more answers, or "
            "--fall-back to save a router that calls single models"
        )
    save_routing(router, out)
    typer.echo(f"{out}: {router.version}")
    say_fitted_routing(router)


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
_DEFAULT = "Default: logprobs, and prior where it is recorded."


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
    signals: Annotated[str | None, typer.Option(help=f"{_SIGNALS} {_DEFAULT}")] = None,
    prior_of: PriorOfOption = None,
    confidence_is: ConfidenceIsOption = None,
    scorer: Annotated[str | None, typer.Option(help="Train an answer scorer: minilm, or a folder.")] = None,
    calibrator: Annotated[str | None, typer.Option(help=_CALIBRATOR)] = None,
    cost_aware: Annotated[bool | None, typer.Option("--cost-aware/--no-cost-aware", help=_AWARE)] = None,
    probe_tokens: Annotated[
        int | None, typer.Option(min=1, help="Number of first tokens that signals read (streaming).")
    ] = None,
    registry: RegistryOption = REGISTRY,
    split: SplitOption = None,
    seed: SeedOption = 0,
) -> None:
    """Fit a chain: signals, calibration and thresholds, with held-out figures.

    Refused if it misses its target on queries that it was not fitted on, or if one model is as good for as much.

    \b
    Examples:
      jethro cascade fit --data lab.jsonl --chain small,large --target quality-drop=0.01 --out var/cascades/mine
      jethro cascade fit --data lab.jsonl --target strong-share=0.4 --probe-tokens 2 --out var/cascades/stream
      jethro cascade fit --data a.jsonl --choose --target cost=0.0002 --signals mean_logprob --out var/cascades/c
    """
    from serve_app.cascade.artefact import save_chain
    from serve_app.cascade.fitting.confidence import ConfidencePlan
    from serve_app.cascade.fitting.fit import ChainPlan, fit_chain
    from serve_app.decision.target import COST, Target

    aim = Target.parse(target)
    recorded, chosen = with_signals(signals, recorded_answers(data, split), prior_of, confidence_is, registry)
    usual = "blended" if len(chosen) == 1 and scorer is None else "logistic"  # of several there are log-odds already
    aware = ((True, False) if aim.name == COST else (False, True)) if cost_aware is None else (cost_aware,)
    plans = [
        ConfidencePlan(chosen, kind, scorer, probe_tokens, by_cost, seed)
        for kind in _calibrators(calibrator, usual)
        for by_cost in aware
    ]
    plan = ChainPlan(
        models=listed(chain) if chain else recorded.models,
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


def _calibrators(given: str | None, usual: str) -> tuple[str, ...]:
    from serve_app.cascade.signals.calibration import FITS

    return tuple(dict.fromkeys((usual, *FITS))) if given == "auto" else (given or usual,)


@group.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="The folder of a fitted chain, or of a fitted cascade router.")],
    data: DataOption,
    split: SplitOption = None,
    registry: RegistryOption = REGISTRY,
    force: Annotated[bool, typer.Option("--force", help="Even on the data that it was fitted on.")] = False,
) -> None:
    """Measure a fitted cascade on other recorded answers: quality, cost, shares, with 95 % intervals.

    It is measured with what it was fitted with: the scores of the same version of its router, the same metric.

    \b
    Examples:
      jethro cascade evaluate var/cascades/mine --data measure.jsonl
      jethro cascade evaluate var/cascades/routing --data measure.jsonl
    """
    from serve_app.cascade.artefact import FILE, load_fitted
    from serve_app.cascade.fitting.evaluation import held_out_of, replay_of, signal_qualities
    from serve_app.cascade.fitting.held_out import expected
    from serve_app.cascade.routing.evaluation import evaluate_routing
    from serve_app.cascade.routing.router import FILE as ROUTING
    from serve_app.cascade.routing.router import load_routing

    recorded = recorded_answers(data, split)
    if (folder / ROUTING).is_file() and not (folder / FILE).is_file():
        router = load_routing(folder)
        signals = [signal for signal in router.signals.values() if signal is not None]
        models = dict(zip(router.pools, router.models, strict=False))
        recorded = matching_answers(
            folder / ROUTING, (data, recorded), router.data, models, signals, registry, force=force
        )
        say_routing(evaluate_routing(router, recorded))
        return
    fitted = load_fitted(folder)
    chain = fitted.chain
    signals = [level.signal for level in chain.levels if level.signal is not None]
    models = dict(zip((level.pool for level in chain.levels), chain.models, strict=False))
    recorded = matching_answers(folder / FILE, (data, recorded), fitted.data, models, signals, registry, force=force)
    replay = replay_of(chain, recorded, fitted.data.get("confidence_is"))
    found = held_out_of(chain, replay)
    say_chain(expected(found, recorded, found.models))
    for level in signal_qualities(chain, replay):
        typer.echo(f"  {level.pool}: AUC {fixed(level.auc, 3)}, calibration error {fixed(level.calibration_error, 3)}")


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
        typer.echo(
            f"  {level.pool}{model}: taken at {fixed(level.threshold, 4)} and above, by {level.signal.name} ({names})"
        )
    try:
        if chain.expected:
            say_chain(chain.expected)
    except KeyError as e:
        raise ConfigError(f"{folder}: expected has no {e.args[0]}; fit the cascade again, or empty it") from None
