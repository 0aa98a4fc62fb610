"""`jethro cascade fit-automix`: a small and a large model, by the small one's own verdicts."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from serve_app.cli.options import listed
from serve_app.errors import ConfigError


def fit_automix(
    data: Annotated[Path, typer.Option("--data", help="Recorded answers, of `jethro cascade collect --verdicts 8`.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the fitted chain; name it in the config.")],
    target: Annotated[str, typer.Option(help="quality-drop=0.01, strong-share=0.5 or cost=0.0002 (USD a query).")],
    chain: Annotated[str | None, typer.Option(help="The small and the large pool; default as recorded.")] = None,
    decider: Annotated[
        Literal["threshold", "double-threshold", "pomdp"], typer.Option(help="How verdicts become a decision.")
    ] = "pomdp",
    signal: Annotated[str, typer.Option(help="self_verification or agreement: a fraction.")] = "self_verification",
    split: Annotated[str | None, typer.Option("--split", help="Only the rows of this split; default all.")] = None,
    seed: Annotated[int, typer.Option(help="Draws folds.")] = 0,
) -> None:
    """Fit AutoMix: hopeless queries are not passed on, by the small model's verdicts on its own answers.

    \b
    Examples:
      jethro cascade fit-automix --data a.jsonl --chain small,large --target strong-share=0.3 --out var/cascades/mix
      jethro cascade fit-automix --data a.jsonl --decider double-threshold --target cost=0.0002 --out var/cascades/mix
    """
    from serve_app.cascade.artefact import save_chain
    from serve_app.cascade.automix_chain import AutoMixPlan
    from serve_app.cascade.automix_chain import fit_automix as fit
    from serve_app.cascade.recorded import read
    from serve_app.cascade.signal_specs import UNTRAINED
    from serve_app.cli.cascade import show
    from serve_app.routing.target import Target

    if signal not in UNTRAINED:
        raise ConfigError(f"signal {signal!r} is not known: give self_verification or agreement")
    recorded = read(data)
    recorded = recorded if split is None else recorded.split(split)
    names = listed(chain) if chain else recorded.models
    fitted = fit(recorded, AutoMixPlan(names, Target.parse(target), decider, UNTRAINED[signal](), seed=seed))
    save_chain(fitted, out)
    typer.echo(f"{out}: {fitted.chain.version}, {decider}")
    show(out)
