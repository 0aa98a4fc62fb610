"""The lines in which the commands of `jethro cascade` show figures, with their 95 % intervals where there are any."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from serve_app.numbers import between, fixed, percent, significant

if TYPE_CHECKING:
    from serve_app.cascade.routing.router import CascadeRouter


def say_chain(found: Mapping[str, float]) -> None:
    """Figures of a chain. Raises KeyError for one that is missing."""
    strong = found.get("strong_cost_usd", 0.0)
    of_strong = f" ({percent(found['cost_usd'] / strong, 0)} of always the last)" if strong else ""
    typer.echo(f"  quality {_with_interval(found, 'quality')}, {significant(found['cost_usd'])} USD a query{of_strong}")
    if "quality_drop" in found:
        low, high = found["quality_drop_low"], found["quality_drop_high"]
        typer.echo(
            f"  {_with_interval(found, 'strong_share', as_percent=True)} call the last level; quality drop against it "
            f"{between(*(percent(part, 2) for part in (found['quality_drop'], low, high)))}"
        )
    if "shifted_quality" in found:
        typer.echo(
            f"  on kinds of queries that it was not fitted on: quality {fixed(found['shifted_quality'], 4)}, "
            f"{significant(found['shifted_cost_usd'])} USD a query, {percent(found['shifted_strong_share'])} call the "
            "last level"
        )
    shares = {name.removeprefix("share:"): value for name, value in found.items() if name.startswith("share:")}
    typer.echo("  answered by " + ", ".join(f"{pool} {percent(share)}" for pool, share in shares.items()))


def say_routing(found: Mapping[str, float]) -> None:
    """Figures of a cascade router on answers that it was not fitted on."""
    typer.echo(
        f"  quality {_with_interval(found, 'quality')} (best model {fixed(found['strong_quality'], 4)}), "
        f"{significant(found['cost_usd'])} USD a query "
        f"[{significant(found['cost_usd_low'])}, {significant(found['cost_usd_high'])}]"
    )
    for verb, prefix in (("answered by", "share:"), ("called", "reach:")):
        pools = [key for key in found if key.startswith(prefix) and not key.endswith(("_low", "_high"))]
        shares = [f"{pool.removeprefix(prefix)} {_with_interval(found, pool, as_percent=True)}" for pool in pools]
        typer.echo(f"  {verb}: " + ", ".join(shares))


def say_fitted_routing(router: "CascadeRouter") -> None:
    """Figures of a cascade router as it was fitted."""
    found = router.expected
    if router.data["fell_back"]:
        typer.echo("  a single model is better at this cost: the router calls single models, whatever they answer")
    typer.echo(f"  quality {fixed(found['quality'], 4)} (best model {fixed(found['strong_quality'], 4)}), held out")
    typer.echo(f"  {significant(found['cost_usd'])} USD a query of {significant(router.data['budget_usd'])}")
    calls = {name.removeprefix("reach:"): value for name, value in found.items() if name.startswith("reach:")}
    typer.echo("  called: " + ", ".join(f"{pool} {percent(share)}" for pool, share in calls.items()))


def _with_interval(found: Mapping[str, float], key: str, as_percent: bool = False) -> str:
    """A figure with its interval where there is one."""
    known = [found[name] for name in (key, f"{key}_low", f"{key}_high") if name in found]
    figure, *ends = [percent(part) if as_percent else fixed(part, 4) for part in known]
    return between(figure, *ends) if len(ends) == 2 else figure
