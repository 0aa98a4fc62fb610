"""The lines in which the commands of `jethro cascade` show figures, with their 95 % intervals where there are any."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from serve_app.cascade.routing.router import CascadeRouter


def say_chain(found: Mapping[str, float]) -> None:
    """Figures of a chain. Raises KeyError for one that is missing."""
    strong = found.get("strong_cost_usd", 0.0)
    of_strong = f" ({100 * found['cost_usd'] / strong:.0f} % of always the last)" if strong else ""
    typer.echo(f"  quality {_with_interval(found, 'quality')}, {found['cost_usd']:.3g} USD a query{of_strong}")
    if "quality_drop" in found:
        low, high = found["quality_drop_low"], found["quality_drop_high"]
        typer.echo(
            f"  {_with_interval(found, 'strong_share', percent=True)} call the last level; quality drop against it "
            f"{100 * found['quality_drop']:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
        )
    if "shifted_quality" in found:
        typer.echo(
            f"  on kinds of queries that it was not fitted on: quality {found['shifted_quality']:.4f}, "
            f"{found['shifted_cost_usd']:.3g} USD a query, {100 * found['shifted_strong_share']:.1f} % call the last "
            "level"
        )
    shares = {name.removeprefix("share:"): value for name, value in found.items() if name.startswith("share:")}
    typer.echo("  answered by " + ", ".join(f"{pool} {100 * share:.1f} %" for pool, share in shares.items()))


def say_routing(found: Mapping[str, float]) -> None:
    """Figures of a cascade router on answers that it was not fitted on."""
    typer.echo(
        f"  quality {_with_interval(found, 'quality')} (best model {found['strong_quality']:.4f}), "
        f"{found['cost_usd']:.3g} USD a query [{found['cost_usd_low']:.3g}, {found['cost_usd_high']:.3g}]"
    )
    for verb, prefix in (("answered by", "share:"), ("called", "reach:")):
        pools = [key for key in found if key.startswith(prefix) and not key.endswith(("_low", "_high"))]
        shares = [f"{pool.removeprefix(prefix)} {_with_interval(found, pool, percent=True)}" for pool in pools]
        typer.echo(f"  {verb}: " + ", ".join(shares))


def say_fitted_routing(router: "CascadeRouter") -> None:
    """Figures of a cascade router as it was fitted."""
    found = router.expected
    if router.data["fell_back"]:
        typer.echo("  a single model is better at this cost: the router calls single models, whatever they answer")
    typer.echo(f"  quality {found['quality']:.4f} (best model {found['strong_quality']:.4f}), held out")
    typer.echo(f"  {found['cost_usd']:.3g} USD a query of {router.data['budget_usd']:.3g}")
    calls = {name.removeprefix("reach:"): value for name, value in found.items() if name.startswith("reach:")}
    typer.echo("  called: " + ", ".join(f"{pool} {100 * share:.1f} %" for pool, share in calls.items()))


def _with_interval(found: Mapping[str, float], key: str, percent: bool = False) -> str:
    """A figure with its interval where there is one."""
    form, unit, scale = (".1f", " %", 100.0) if percent else (".4f", "", 1.0)
    low, high = found.get(f"{key}_low"), found.get(f"{key}_high")
    between = "" if low is None or high is None else f" [{scale * low:{form}}, {scale * high:{form}}]"
    return f"{scale * found[key]:{form}}{unit}{between}"
