"""The result as Markdown."""

from typing import Any

from benchmarks.cascades.figures import JUDGED, OURS
from benchmarks.cascades.methods import METHODS
from benchmarks.stamp import one_line
from benchmarks.table import markdown

ABOUT = """Fitted on the train part (MMLU 285 queries, TriviaQA 300), reported on the test part (1,531 and 1,000). Area:
mean test quality over mean costs from the cheapest to the dearest model of the setting, by trapezoids through the
points that a method reaches (the paper's area under quality against cost, over the width of the range), in percent.
Intervals: 95 %, bootstrap of the test queries, the same resamples for every method; the fit is not repeated. `lead`:
cascade routing less the best of the others but `linear`, with the interval of that difference.

threshold: one quantile of the raw confidence for the whole chain. calibrated: the chain of `jethro cascade fit`,
blended calibration of the confidence and thresholds searched under a budget on doubt per dollar (on doubt alone where
that is better on train by more than a standard error). routing, cascade, cascade routing: Dekoninck, Baader & Vechev
(ICML 2025) on estimates of ours, `jethro cascade fit-routing`; `cascade` (`--in-order`) keeps the chain's order and
weighs the calibrated chance that the next model is right where this one is not against its cost. Cascade routing keeps
the order too where that did better on train, see `shape`. linear: mixtures of single models, chosen on test.

How it was chosen: calibration, the prior of a prompt, the margin that another answer needs over the strongest model's,
the usual shape and the guard by repeated cross-validation or halves of the train part, over all pairs of models that a
cascade makes sense for (23 and 24) and over 32 settings of two to five. The test part was looked at several times in
earlier versions, and once since the present constants were set; which of earlier forms were kept may flatter.

Verdict: `below` means that the 95 % interval of the paired difference excludes 0. A row of the plain cascade is beaten
by an accuracy strictly above it at the same mean cost; the interval next to it shows how sure that is.
"""


def text(found: dict[str, Any]) -> str:
    """Tables and the sentences that explain them."""
    parts = ["# Cascades, routing and cascade routing on recorded answers\n", ABOUT]
    for data in dict.fromkeys(one["data"] for one in found["settings"]):
        parts += [f"## {data}\n", _areas([one for one in found["settings"] if one["data"] == data])]
    parts += ["## Below a single model?\n", _dominance(found["settings"])]
    parts += ["## The plain two-model cascade, at equal cost\n", _plain(found["plain"])]
    if found["noise"]:
        parts += ["## Noisier estimates\n", _noise(found["noise"])]
    parts += ["## Where cascade routing is behind\n", _behind(found["settings"])]
    parts += ["## Verdict\n", _verdict(found["verdict"]), f"{one_line(found['environment'])}, seed {found['seed']}\n"]
    return "\n".join(parts)


def _areas(settings: list[dict[str, Any]]) -> str:
    rows = []
    for one in settings:
        best = max((m for m in METHODS if m not in (OURS, "linear")), key=lambda m: one["methods"][m]["area"])
        lead = one["methods"][best]
        ours = one["methods"][OURS]
        rows.append(
            (
                " → ".join(one["models"]),
                *(f"{100 * one['methods'][m]['area']:.2f}" for m in METHODS),
                f"[{100 * ours['interval'][0]:.2f}, {100 * ours['interval'][1]:.2f}]",
                f"{100 * lead['below_ours']:+.2f} {_interval(lead['below_ours_interval'])} ({best})",
                ours["note"],
            )
        )
    return markdown(("models", *METHODS, f"{OURS}, 95 %", "lead", "shape"), rows)


def _behind(settings: list[dict[str, Any]]) -> str:
    """The settings with a better method than cascade routing, whatever the interval."""
    lines = []
    for one in settings:
        best = max((m for m in METHODS if m not in (OURS, "linear")), key=lambda m: one["methods"][m]["area"])
        lead = one["methods"][best]
        if lead["below_ours"] < 0:
            lines.append(
                f"- {one['data']} {' → '.join(one['models'])}: {100 * lead['below_ours']:+.2f} points against {best} "
                f"{_interval(lead['below_ours_interval'])}"
            )
    return f"{len(lines)} of {len(settings)} settings:\n\n" + "\n".join(lines) + "\n"


def _dominance(settings: list[dict[str, Any]]) -> str:
    rows = []
    for one in settings:
        cells = [f"{d['below']} / {d['beyond_chance']} / {100 * d['worst']:.1f}" for d in one["dominance"].values()]
        rows.append((f"{one['data']} {' → '.join(one['models'])}", *cells))
    head = ("setting", *settings[0]["dominance"])
    return (
        "Budgets at which a method's test quality is below that of the best single model of at most its test cost (as "
        "test shows it) / of these beyond chance (paired bootstrap) / the largest shortfall in points. Each fitted "
        "method falls back to single models where its lead over them at its cost, on train, is under half a standard "
        "error; the plain threshold cascade has no guard.\n\n" + markdown(head, rows)
    )


def _plain(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            f"{row['data']} {' → '.join(row['setting'])}",
            f"{100 * row['cost_share']:.0f} %",
            f"{row['plain']:.3f}",
            *(f"{row['at'][m]:.4f}" for m in METHODS if m != "linear"),
            f"{row['hindsight']:.4f}",
            *(f"{'yes' if row['beaten'][m] else 'no'} {_interval(row['less_threshold'][m])}" for m in JUDGED),
        )
        for row in rows
    ]
    above = (f"{m} above? (less threshold)" for m in JUDGED)
    head = ("setting", "cost of always-large", "plain, as published", *METHODS[:-1], "hindsight", *above)
    return (
        "Test accuracy at the same mean test cost, linear between budgets. The verdict holds `cascade` to the rows, "
        "the better of the two calibrated cascades by cross-validation on train. `less threshold`: less the plain "
        "cascade recomputed here, 95 %, in points. `hindsight`: the most that any thresholds on the raw confidence, "
        "mixed and chosen on the test answers themselves, would give there: what confidence alone has to offer.\n\n"
        + markdown(head, cells)
    )


def _noise(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            f"{row['data']} {' → '.join(row['models'])}",
            f"{level} ({one['before']:g}, {one['after']:g})",
            *(f"{100 * one[m]:.2f}" for m in ("routing", "cascade", OURS)),
            *(f"{100 * (one[OURS] - one[m]):+.2f}" for m in ("routing", "cascade")),
        )
        for row in rows
        for level, one in row["levels"].items()
    ]
    return (
        "Estimates are the recorded truth seen through normal noise of the deviations given (before, after a model has "
        "run), the paper's levels. What lies between cascade routing and each of the other two is in points.\n\n"
        + markdown(("setting", "noise", "routing", "cascade", OURS, "over routing", "over cascade"), cells)
    )


def _verdict(verdict: dict[str, Any]) -> str:
    lines = [
        f"- cascade routing below another method beyond its interval: {_list(verdict['below'])}",
        f"- fitted methods with budgets below the best single model beyond chance: {_list(verdict['dominated'])}",
        f"- rows of the plain cascade that the calibrated cascade does not beat: {_list(verdict['not_beaten'])}",
    ]
    if "noise" in verdict:
        lines.append(
            "- settings and noise at which cascade routing is more than 0.1 points below routing or cascade: "
            f"{_list(verdict['noise'])}"
        )
        lines.append(
            "- settings whose lead over routing does not shrink from low to high noise: "
            f"{_list(verdict['lead_over_routing'])}"
        )
    return "\n".join(lines) + "\n"


def _list(names: list[str]) -> str:
    return "; ".join(names) if names else "none"


def _interval(values: list[float]) -> str:
    return f"[{100 * values[0]:+.2f}, {100 * values[1]:+.2f}]"
