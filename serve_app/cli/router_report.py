"""What `jethro router` prints and writes: trained and calibrated routers, evaluations, comparisons."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from serve_app.learning.comparison import Candidate, Plan
    from serve_app.learning.dataset import Dataset
    from serve_app.learning.evaluation import Evaluation
    from serve_app.routing.registry import Registry


def note_other_models(models: tuple[str, str] | None, dataset: "Dataset") -> None:
    """Say so where a router was trained on the answers of other models than the dataset's."""
    found = (dataset.weak.model, dataset.strong.model)
    if models is not None and models != found:
        typer.echo(f"note: trained on answers of {' and '.join(models)}; these are of {' and '.join(found)}")


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
    _say_serving(registry, name, version)


def say_calibrated(registry: "Registry", name: str, version: str) -> None:
    """The new threshold, what it gives on the calibration data, and how to serve it."""
    from serve_app.routing.registered import read_card

    folder = registry.path(name, version)
    card = read_card(folder)
    figures = card["metrics"]
    typer.echo(f"{folder}: threshold {card['threshold']:.6g} ({card['target']})")
    typer.echo(
        f"on the {figures['queries']:,.0f} calibration queries: {100 * figures['strong_share']:.1f} % strong calls, "
        f"quality {figures['quality']:.4f}, drop {100 * figures['quality_drop']:.2f} %"
    )
    _say_serving(registry, name, version)


def _say_serving(registry: "Registry", name: str, version: str) -> None:
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


def write_comparison(
    candidates: "Sequence[Candidate]", refused: "Mapping[str, str]", plan: "Plan", dataset: "Dataset", out: Path
) -> None:
    """Write comparison.json, comparison.md and comparison.png."""
    import json

    from serve_app.learning.comparison_report import comparison_json, comparison_markdown
    from serve_app.learning.plots import plot_comparison

    out.mkdir(parents=True, exist_ok=True)
    body = comparison_json(candidates, refused, plan, dataset)
    (out / "comparison.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", "utf-8")
    (out / "comparison.md").write_text(comparison_markdown(candidates, refused, plan), "utf-8")
    plot_comparison([c.evaluation for c in candidates if c.kind != "random"], out / "comparison.png")
    typer.echo(f"written: {out / 'comparison.json'}, .md, .png")
