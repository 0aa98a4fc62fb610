"""`jethro router list | show | use`: the registered routers, their cards, and which one serves."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import show_json
from serve_app.cli.router.report import ELSEWHERE, REGISTRY, RegistryOption
from serve_app.errors import ConfigError, writing

if TYPE_CHECKING:
    from serve_app.routing.registry import Registry

_WHICH = "NAME, or NAME@VERSION."


def list_routers(
    registry: RegistryOption = REGISTRY, json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """List routers and their versions with figures; `*` marks the version that serves.

    \b
    Examples:
      jethro router list
      jethro router list --json
    """
    from serve_app.routing.registry import Registry
    from serve_app.training.report import markdown_table

    folder = Registry(registry)
    rows = [row for name in folder.names() for row in _versions(folder, name)]
    if json:
        show_json(rows)
        return
    head = ["", "router", "version", "kind", "threshold", "target", "strong calls", "drop", "APGR"]
    typer.echo(markdown_table(head, [_row(row) for row in rows]))


def show(router: Annotated[str, typer.Argument(help=_WHICH)], registry: RegistryOption = REGISTRY) -> None:
    """Show a router's card and run: data, figures, threshold, parameters.

    \b
    Examples:
      jethro router show complexity
      jethro router show mine@knn-1a2b3c4d
    """
    from serve_app.routing.artefact import read_card
    from serve_app.routing.registry import RANDOM, Registry
    from serve_app.training.training import read_run

    folder = Registry(registry)
    name, version = _which(folder, router)
    if name == RANDOM:
        raise ConfigError("random has no card: its score is uniform, and nothing of it is learned")
    path = folder.path(name, version)
    run = read_run(path)
    serves = folder.current(name) == version
    show_json({"name": name, "serves": serves, **read_card(path), **({"run": run} if run else {})})


def use(
    router: Annotated[str, typer.Argument(help=_WHICH)],
    registry: RegistryOption = REGISTRY,
    threshold: Annotated[float | None, typer.Option(help="Serve it at this instead of its own threshold.")] = None,
    as_default: Annotated[bool, typer.Option("--as-default", help="And where the config names no router.")] = False,
) -> None:
    """Serve a version of a router from now on; running endpoints load it without losing a request.

    \b
    Examples:
      jethro router use mine
      jethro router use mine@knn-1a2b3c4d --threshold 0.4 --as-default
    """
    from serve_app.routing.registry import Registry

    folder = Registry(registry)
    name, version = _which(folder, router)
    with writing(registry, ELSEWHERE):
        folder.use(name, version, threshold)
        if as_default:
            folder.use_default(name)
    found = folder.load(name)
    default = ", the default router" if folder.default() == name else ""
    typer.echo(f"{name} serves {found.version} at threshold {found.threshold:.6g}{default}")


def _which(registry: "Registry", router: str) -> tuple[str, str]:
    name, at, version = router.partition("@")
    if at and not version:
        raise ConfigError(f"{router}: write NAME@VERSION, or NAME for the version that serves")
    return name, version or registry.current(name)


def _versions(registry: "Registry", name: str) -> list[dict[str, Any]]:
    from serve_app.routing.artefact import read_card
    from serve_app.routing.registry import RANDOM

    serving, override = registry.serving(name)
    rows = []
    for version in registry.versions(name):
        card: dict[str, Any] = {"kind": RANDOM} if name == RANDOM else read_card(registry.path(name, version))
        figures = card.get("metrics", {})
        shown = {key: figures.get(key) for key in ("strong_share", "quality", "quality_drop", "apgr", "auc")}
        threshold, target = card.get("threshold"), card.get("target")
        if version == serving and override is not None:
            threshold, target = override, "given"
            shown |= dict.fromkeys(("strong_share", "quality", "quality_drop"))  # those are of the card's own threshold
        about = {"kind": card["kind"], "threshold": threshold, "target": target, "models": card.get("models")}
        rows.append({"name": name, "version": version, "serves": version == serving, **about, **shown})
    return rows


def _row(row: dict[str, Any]) -> list[str]:
    def number(key: str, form: str) -> str:
        return "" if row[key] is None else format(row[key], form)

    return [
        "*" if row["serves"] else "",
        row["name"],
        row["version"],
        row["kind"],
        number("threshold", ".4g"),
        row["target"] or "",
        number("strong_share", ".1%"),
        number("quality_drop", ".2%"),
        number("apgr", ".3f"),
    ]
