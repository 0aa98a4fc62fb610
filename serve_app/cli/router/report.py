"""What `jethro router` prints and writes: trained and calibrated routers, evaluations, comparisons.

Options that the commands of `jethro router` share.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import parse_settings
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from serve_app.data.dataset import Dataset
    from serve_app.routing.registry import Registry
    from serve_app.training.comparison import ComparedRouter, ComparisonPlan
    from serve_app.training.evaluation import Evaluation


def note_other_models(models: tuple[str, str] | None, dataset: "Dataset") -> None:
    """Say so where a router was trained on the answers of other models than the dataset's."""
    found = (dataset.weak.model, dataset.strong.model)
    if models is not None and models != found:
        typer.echo(f"note: trained on answers of {' and '.join(models)}; these are of {' and '.join(found)}")


def say_trained(registry: "Registry", name: str, version: str) -> None:
    """Where the router is, what it promises, and what to do next."""
    from serve_app.routing.artefact import read_card

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
    from serve_app.routing.artefact import read_card

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

    from serve_app.training.report import evaluation_markdown, plot_evaluation

    out.mkdir(parents=True, exist_ok=True)
    models = {"weak": dataset.weak.model, "strong": dataset.strong.model}
    body = {**evaluation.to_json(), "data": {"digest": dataset.digest(), "models": models, **dataset.about}}
    (out / "evaluation.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", "utf-8")
    (out / "evaluation.md").write_text(evaluation_markdown(evaluation), "utf-8")
    plot_evaluation(evaluation, out / "evaluation.png")
    typer.echo(f"written: {out / 'evaluation.json'}, .md, .png")


def write_comparison(
    candidates: "Sequence[ComparedRouter]",
    refused: "Mapping[str, str]",
    plan: "ComparisonPlan",
    dataset: "Dataset",
    out: Path,
) -> None:
    """Write comparison.json, comparison.md and comparison.png."""
    import json

    from serve_app.training.report import comparison_json, comparison_markdown, plot_comparison

    out.mkdir(parents=True, exist_ok=True)
    body = comparison_json(candidates, refused, plan, dataset)
    (out / "comparison.json").write_text(json.dumps(body, indent=1, allow_nan=False) + "\n", "utf-8")
    (out / "comparison.md").write_text(comparison_markdown(candidates, refused, plan), "utf-8")
    plot_comparison([c.evaluation for c in candidates if c.kind != "random"], out / "comparison.png")
    typer.echo(f"written: {out / 'comparison.json'}, .md, .png")


REGISTRY = Path("var/routers")
RegistryOption = Annotated[Path, typer.Option("--registry", help="Folder of the registered routers.")]
DataOption = Annotated[Path, typer.Option("--data", help="Parquet file of `jethro data`: both pools' scored answers.")]
WeakOption = Annotated[str, typer.Option("--weak", help="The dataset's pool that is cheap.")]
StrongOption = Annotated[str, typer.Option("--strong", help="The dataset's pool that is good.")]
SkipOption = Annotated[
    bool, typer.Option("--skip-seen", help="Leave out queries that the router learned from, instead of refusing.")
]
ParamOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the router; repeat it for more.")
]


def params(pairs: list[str]) -> dict[str, Any]:
    """--set values as YAML scalars: 40 is a number, true a boolean, null none. Raises ConfigError without `=`."""
    import yaml

    return {key: yaml.safe_load(value) for key, value in parse_settings(pairs).items()}


def params_by_kind(pairs: list[str], kinds: list[str]) -> dict[str, dict[str, Any]]:
    """--set KIND.KEY=VALUE by kind. Raises ConfigError for a pair that names none of the kinds."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in params(pairs).items():
        kind, dot, key = name.partition(".")
        if not dot or kind not in kinds:
            raise ConfigError(f"--set {name}: write KIND.KEY=VALUE with one of {', '.join(kinds)}")
        found.setdefault(kind, {})[key] = value
    return found


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raises ConfigError instead of OSError where a folder cannot be written."""
    try:
        yield
    except OSError as e:
        raise ConfigError(f"{folder}: cannot be written ({e}); give another with --registry") from e
