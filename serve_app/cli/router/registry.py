"""`jethro router list | show | use`: the registered routers, their cards, and which one serves."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serve_app.cli.options import REGISTRY, show_json
from serve_app.cli.router.report import ELSEWHERE, RegistryOption
from serve_app.errors import ConfigError, writing
from serve_app.numbers import fixed, percent, significant

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.routing.registry import Registry

_WHICH = "NAME, or NAME@VERSION."


def list_routers(
    registry: RegistryOption = REGISTRY,
    config: Annotated[str | None, typer.Option(help="The config whose default is marked; its registry too.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List routers and their versions with figures and models; `*` marks the version of a name that serves.

    `default` marks the one that `jethro` means, of a config if one is given, and the last line says why it is that one.

    \b
    Examples:
      jethro router list
      jethro router list --config my.yaml
      jethro router list --json
    """
    from serve_app.config import load
    from serve_app.routing.registry import Registry
    from serve_app.training.report import markdown_table

    settings = load(config) if config is not None else None
    folder = Registry(registry if settings is None else Path(settings.routing.registry))
    default, why = _default(folder, settings)
    rows = [row for name in folder.names() for row in _versions(folder, name, default)]
    if json:
        show_json(rows)
        return
    head = ["", "router", "version", "kind", "trained on", "threshold", "target", "strong calls", "drop", "APGR"]
    typer.echo(markdown_table(head, [_row(row) for row in rows]))
    typer.echo(why)


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
    typer.echo(f"{name} serves {found.version} at threshold {significant(found.threshold, 6)}{default}")


def _which(registry: "Registry", router: str) -> tuple[str, str]:
    name, at, version = router.partition("@")
    if at and not version:
        raise ConfigError(f"{router}: write NAME@VERSION, or NAME for the version that serves")
    return name, version or registry.current(name)


def _default(registry: "Registry", config: "Config | None") -> tuple[str | None, str]:
    """The reference of the default router, None where that depends on a config's models; and why it is that one."""
    from serve_app.routing.default import FALLBACK, default_source, is_undecided, models_of
    from serve_app.routing.registry import RANDOM

    if config is not None:
        source = default_source(config.routing, registry, config.routed_models)
        if config.routing.router:
            return source, f"default: {source}, by routing.router"
        if is_undecided(config.routing, registry, config.routed_models):
            models = " and ".join(config.routed_models)
            return source, f"default: {RANDOM}, as none is chosen and none that ships knows {models}"
    else:
        source = registry.default() or FALLBACK
    if registry.default():
        return (
            source,
            f"default: {source}, by `jethro router use --as-default`; a config's routing.router goes before it",
        )
    models = " and ".join(models_of(registry, FALLBACK) or ())
    if config is not None:
        return source, f"default: {FALLBACK}, which ships for {models}"
    why = f"default: none chosen; {FALLBACK} serves {models}, {RANDOM} any other models; see --config"
    return None, why


def _versions(registry: "Registry", name: str, default: str | None) -> list[dict[str, Any]]:
    from serve_app.routing.artefact import read_card
    from serve_app.routing.registry import RANDOM, router_names, shipped_version

    chosen, _, pinned = (default or "").partition("@")
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
        serves = version == serving
        is_default = name == chosen and (version == pinned if pinned else serves)
        ships = name in router_names() and (name == RANDOM or version == shipped_version(name))
        marks = {"serves": serves, "default": is_default, "shipped": ships}
        rows.append({"name": name, "version": version, **marks, **about, **shown})
    return rows


def _row(row: dict[str, Any]) -> list[str]:
    def shown(key: str, form: Callable[[float, int], str], digits: int) -> str:
        return "" if row[key] is None else form(row[key], digits)

    return [
        "* default" if row["default"] else "*" if row["serves"] else "",
        row["name"],
        row["version"],
        row["kind"],
        " / ".join(map(str, (row["models"] or {}).values())),
        shown("threshold", significant, 4),
        row["target"] or "",
        shown("strong_share", percent, 1),
        shown("quality_drop", percent, 2),
        shown("apgr", fixed, 3),
    ]
