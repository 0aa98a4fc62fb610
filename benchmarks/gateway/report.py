"""The gateway benchmark as numbers, tables, pass marks and a picture."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway.layers import AT_GATEWAY, PING_AT_GATEWAY, THROUGH_HAPROXY, Layers
from benchmarks.gateway.pacing import ITL_P95_MS, PACE_MS, Paced
from benchmarks.gateway.rounds import ONE_SHOT, STREAM, Cell
from benchmarks.stamp import one_line
from benchmarks.table import markdown
from serve_app import plots

JETHRO, BARE, LITELLM = "jethro", "bare uvicorn", "litellm"

REMEDIES = {
    "HAProxy": "it balances and drains; clients at the Gateway's own port would save the hop",
    "HTTP server of the Gateway": "uvicorn in a Serve replica; a compiled server in its place",
    "parse": "JSON and the bounds on it; a compiled validator",
    "decide": "features and regression; nothing to gain at this size",
    "pool": "connection to the replica and its answer with no model; an engine that speaks HTTP itself",
    "account, log, store, metrics, write": "Python after the answer came; a compiled data plane",
}
"""The layers of a request, and what would remove the time that each costs."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A pass mark with what was measured."""

    text: str
    value: float
    bound: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return self.value >= self.bound if self.at_least else self.value < self.bound


def best(cells: Sequence[Cell], target: str, case: str, concurrency: int | None = None) -> float:
    """Highest rate of the targets whose name begins so, at one concurrency or over all; 0 if any was in error."""
    mine = [c for c in cells if c.target.startswith(target) and c.case == case]
    return max((c.per_second for c in mine if concurrency in (None, c.concurrency) and not c.errors), default=0.0)


def marks(cells: Sequence[Cell], layers: Layers) -> list[Mark]:
    """What has to hold. Ratios are of the best rates over all concurrencies and numbers of workers."""
    found = []
    for case, over_peer, over_bare in ((ONE_SHOT, 10.0, 0.07), (STREAM, 15.0, 0.3)):
        mine = best(cells, JETHRO, case)
        found.append(Mark(f"{case}: times LiteLLM's best", _ratio(mine, best(cells, LITELLM, case)), over_peer))
        found.append(Mark(f"{case}: times bare uvicorn's", _ratio(mine, best(cells, BARE, case)), over_bare))
    found.append(Mark("decision time p50, ms", layers.inside_ms["decide"]["p50"], 1.0, at_least=False))
    errors = float(sum(c.errors for c in cells))
    return [*found, Mark("failed requests of all runs", errors, 0.5, at_least=False)]


def as_json(cells: Sequence[Cell], paced: Sequence[Paced], layers: Layers, stamp: dict[str, Any]) -> dict[str, Any]:
    """Everything, rounds included."""
    rows = [
        {
            "target": c.target,
            "case": c.case,
            "concurrency": c.concurrency,
            "per_second": c.per_second,
            "p50_ms": c.p50_ms,
            "p99_ms": c.p99_ms,
            "errors": c.errors,
            "stream_bytes": c.stream_bytes,
            "rounds": [asdict(load) for load in c.loads],
        }
        for c in cells
    ]
    found = [{**asdict(m), "passed": m.passed} for m in marks(cells, layers)]
    return {
        "benchmark": "gateway",
        "environment": stamp,
        "marks": found,
        "cells": rows,
        "paced": [asdict(p) for p in paced],
        "layers": {**asdict(layers), "layer_ms": layer_ms(layers)},
    }


def tables(cells: Sequence[Cell], paced: Sequence[Paced], layers: Layers, stamp: dict[str, Any]) -> str:
    """All as markdown."""
    whom = f"Jethro with {stamp['gateways']} router replicas in front of one replica a pool."
    parts = ["# Gateway overhead", f"{whom} {one_line(stamp)}", "## Pass marks"]
    rows = [
        (m.text, m.value, f"{'≥' if m.at_least else '<'} {m.bound:g}", _yes(m.passed)) for m in marks(cells, layers)
    ]
    parts.append(markdown(["mark", "measured", "bound", "holds"], rows))
    for case in (ONE_SHOT, STREAM):
        parts += [f"## {case}: answers a second, latency p50 / p99 in ms", _case(cells, case)]
    parts += [f"## Streams at {PACE_MS} ms a token: the most that keep ITL p95 under {ITL_P95_MS:g} ms", _paced(paced)]
    return "\n\n".join(p.rstrip() for p in [*parts, *_layers(layers)]) + "\n"


def plot(cells: Sequence[Cell], paced: Sequence[Paced], stamp: dict[str, Any], path: Path) -> None:
    """Rates by target and concurrency, on logarithmic axes, as a PNG."""
    figure, axes = plots.new_figure(3, 4.3, width_ratios=[2, 2, 1])
    targets = list(dict.fromkeys(c.target for c in cells))
    for axis, case in zip(axes, (ONE_SHOT, STREAM), strict=False):
        concurrencies = sorted({c.concurrency for c in cells})
        for i, target in enumerate(targets):
            rates = [best(cells, target, case, c) for c in concurrencies]
            places = [x + (i - len(targets) / 2 + 0.5) * 0.2 for x in range(len(rates))]
            axis.bar_label(axis.bar(places, rates, 0.2, label=target), fmt="{:,.0f}", fontsize=6)
        axis.set_xticks(range(len(concurrencies)), [f"{c} at once" for c in concurrencies])
        axis.set(yscale="log", title=f"{case}: answers a second")
        axis.yaxis.set_minor_formatter("")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(targets), fontsize=8)
    bars = axes[2].bar([p.target.replace(" ", "\n") for p in paced], [p.streams for p in paced])
    axes[2].bar_label(bars, fontsize=7)
    axes[2].set(title=f"streams at {PACE_MS} ms a token\nwith ITL p95 < {ITL_P95_MS:g} ms")
    axes[2].set_visible(bool(paced))
    axes[2].tick_params("x", labelsize=7)
    figure.suptitle(one_line(stamp), fontsize=7)
    plots.save(figure, path)


def _case(cells: Sequence[Cell], case: str) -> str:
    mine = [c for c in cells if c.case == case]
    concurrencies = sorted({c.concurrency for c in mine})
    rows: list[list[object]] = []
    for target in dict.fromkeys(c.target for c in mine):
        of = {c.concurrency: c for c in mine if c.target == target}
        rows.append([target, *(_cell(of[c]) for c in concurrencies)])
    for name, other in (("jethro / LiteLLM's best", LITELLM), ("jethro / bare uvicorn", BARE)):
        ratios = [_ratio(best(cells, JETHRO, case, c), best(cells, other, case, c)) for c in concurrencies]
        rows.append([name, *(f"{r:.3g} ×" for r in ratios)])
    return markdown(["", *(f"{c} at once" for c in concurrencies)], rows)


def _cell(cell: Cell) -> str:
    wrong = f" ({cell.errors} FAILED)" if cell.errors else ""
    return f"{cell.per_second:,.0f} ({cell.p50_ms:.3g} / {cell.p99_ms:.3g}){wrong}"


def _paced(paced: Sequence[Paced]) -> str:
    head = ["", "streams", "ITL p50, ms", "ITL p95, ms", "TTFT p95, ms", "tokens a second", "client, % of a core"]
    keys = ("itl_p50_ms", "itl_p95_ms", "ttft_p95_ms", "tokens_per_s")
    rows = [
        [p.target, p.streams, *(p.at.get(k) for k in keys), p.at.get("client_core_share", 0.0) * 100] for p in paced
    ]
    return markdown(head, rows)


def layer_ms(layers: Layers) -> dict[str, float]:
    """Milliseconds of each layer of a one-shot answer, one at a time (p50); they add up to the whole."""
    path, inside = layers.path_ms, {name: v["p50"] for name, v in layers.inside_ms.items()}
    direct = path[AT_GATEWAY]
    ping = path[PING_AT_GATEWAY]
    known = {name: inside[name] for name in ("parse", "decide", "pool")}
    return {
        "HAProxy": path[THROUGH_HAPROXY] - direct,
        "HTTP server of the Gateway": ping,
        **known,
        "account, log, store, metrics, write": direct - ping - sum(known.values()),
    }


def _layers(layers: Layers) -> list[str]:
    rows = [(name, ms, REMEDIES[name]) for name, ms in layer_ms(layers).items()]
    cpu = [(name, *(of[name] for of in layers.cpu_us.values())) for name in next(iter(layers.cpu_us.values()))]
    inside = [(n, v["p50"], v["p99"], layers.under_load_ms.get(n)) for n, v in layers.inside_ms.items()]
    return [
        "## Where the time goes",
        "One one-shot answer at a time, p50, by layer:",
        markdown(["layer", "ms", "what would remove it"], rows),
        "The same by path:",
        markdown(["path", "ms"], list(layers.path_ms.items())),
        "The Gateway's own clock, up to the first byte (server-timing header; mean under load from /metrics):",
        markdown(["layer", "p50, ms", "p99, ms", "mean at 16 at once, ms"], inside),
        "CPU time by process at 16 at once:",
        markdown(["process", *(f"µs per {case}" for case in layers.cpu_us)], cpu),
    ]


def _ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


def _yes(passed: bool) -> str:
    return "yes" if passed else "NO"
