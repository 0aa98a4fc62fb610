"""What `jethro router` prints and writes: trained routers, evaluations."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from serve_app.learning.dataset import Dataset
    from serve_app.learning.evaluation import Evaluation
    from serve_app.routing.registry import Registry


def say_trained(registry: "Registry", name: str, version: str) -> None:
    """Where the router is, what it promises, and what to do next."""
    from serve_app.routing.registered import read_card

    folder = registry.path(name, version)
    card = read_card(folder)
    figures = card["metrics"]
    apgr = f", APGR {figures['apgr']:.3f}" if "apgr" in figures else ""
    typer.echo(f"{folder}: threshold {card['threshold']:.6g} ({card['target']}){apgr}")
    typer.echo(
        f"on {figures['queries']:,.0f} queries that it was not fitted on: {100 * figures['strong_share']:.1f} % strong "
        f"calls, quality {figures['quality']:.4f}, drop {100 * figures['quality_drop']:.2f} %"
    )
    if registry.current(name) == version:
        typer.echo(f"{name} serves this version: jethro serve --set routing.router={name}")
    else:
        typer.echo(f"to serve it: jethro router use {name}@{version}")


def write_evaluation(evaluation: "Evaluation", dataset: "Dataset", out: Path) -> None:
    """Write evaluation.json, evaluation.md and evaluation.png."""
    import json

    from serve_app.learning.plots import plot_evaluation
    from serve_app.learning.report import evaluation_markdown

    out.mkdir(parents=True, exist_ok=True)
    models = {"weak": dataset.weak.model, "strong": dataset.strong.model}
    body = {**evaluation.to_json(), "data": {"digest": dataset.digest(), "models": models, **dataset.about}}
    (out / "evaluation.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", "utf-8")
    (out / "evaluation.md").write_text(evaluation_markdown(evaluation), "utf-8")
    plot_evaluation(evaluation, out / "evaluation.png")
    typer.echo(f"written: {out / 'evaluation.json'}, .md, .png")
