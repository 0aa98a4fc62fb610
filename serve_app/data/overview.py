"""What a dataset holds, in lines for people: pools, quality with intervals, cost, win rates, some queries."""

from collections import Counter
from collections.abc import Collection, Iterator

import numpy as np

from serve_app.arrays import Floats
from serve_app.data.dataset import Dataset, PoolAnswers
from serve_app.learning.metrics import bootstrap
from serve_app.numbers import between, fixed, significant

_BINS = 10
_BAR = 40
_GROUPS = 12
_TEXT_CHARS = 100


def overview(dataset: Dataset, examples: int = 3) -> Iterator[str]:
    """Lines about the dataset. Quality is per query the mean of its samples; intervals are of 95 %, by bootstrap."""
    about = {k: v for k, v in dataset.about.items() if k not in ("failures", "metric_told")}
    yield f"{len(dataset):,} queries, digest {dataset.digest()}"
    yield "  " + ", ".join(f"{key} {value}" for key, value in about.items() if value not in (None, [], {}))
    if not len(dataset):
        return
    yield from _groups(dataset)
    yield ""
    yield f"{'pool':<12}{'model':<28}{'samples':>8}{'quality':>26}{'USD a query':>13}{'tokens in/out':>16}{'ms':>9}"
    for name, pool in dataset.pools.items():
        yield _pool(name, pool, dataset.about.get("not_recorded", ()))
    if {"small", "large"} <= set(dataset.pools) and not _unscored(dataset.weak) and not _unscored(dataset.strong):
        yield from _win_rates(dataset)
    for row in range(min(examples, len(dataset))):
        yield from _example(dataset, row)


def _groups(dataset: Dataset) -> Iterator[str]:
    counts = Counter(dataset.groups)
    if set(counts) != {""}:
        more = f", and {len(counts) - _GROUPS} more" if len(counts) > _GROUPS else ""
        yield f"  {len(counts)} groups: " + ", ".join(f"{g} {n:,}" for g, n in counts.most_common(_GROUPS)) + more


def _pool(name: str, pool: PoolAnswers, not_recorded: Collection[str]) -> str:
    read, written = pool.mean_tokens().mean(0)
    if _unscored(pool):
        quality = "not scored"
    else:
        means = pool.quality.mean(1)
        found = bootstrap(lambda rows: float(means[rows].mean()), len(means))
        quality = between(*(fixed(part, 4) for part in (found.value, found.low, found.high)))
    latency = "-" if pool.latency_ms is None else f"{np.nanmean(pool.latency_ms):,.0f}"
    cost = "-" if "cost_usd" in not_recorded else significant(pool.cost_usd.mean())
    tokens = "-" if "prompt_tokens" in not_recorded else f"{read:,.0f}/{written:,.0f}"
    return f"{name:<12}{pool.model[:27]:<28}{pool.quality.shape[1]:>8}{quality:>26}{cost:>13}{tokens:>16}{latency:>9}"


def _win_rates(dataset: Dataset) -> Iterator[str]:
    """Win rates of large over small, and what an oracle would reach."""
    rates = dataset.strong_win_rate()
    weak, strong = dataset.weak.quality.mean(1), dataset.strong.quality.mean(1)
    better = strong > weak
    yield ""
    yield (
        f"oracle: quality {np.maximum(weak, strong).mean():.4f} with {100 * better.mean():.1f} % calls of large; large "
        f"is better on {100 * better.mean():.1f} %, equal on {100 * (strong == weak).mean():.1f} %, worse on "
        f"{100 * (strong < weak).mean():.1f} %"
    )
    yield "win rate of large over small, share of queries:"
    yield from _histogram(rates)


def _histogram(rates: Floats) -> Iterator[str]:
    counts, edges = np.histogram(rates, bins=_BINS, range=(0.0, 1.0))
    most = counts.max()
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        yield f"  {low:.1f} - {high:.1f}  {100 * count / len(rates):5.1f} %  {'#' * round(_BAR * count / most)}"


def _example(dataset: Dataset, row: int) -> Iterator[str]:
    yield ""
    reference = dataset.references[row] if dataset.references else None
    known = "" if reference is None else f"  (right: {_short(reference)})"
    yield f"{dataset.ids[row]}: {_short(dataset.queries[row].text)}{known}"
    for name, pool in dataset.pools.items():
        quality = pool.quality[row].mean()
        yield f"  {name:<10} {'-' if np.isnan(quality) else f'{quality:.3f}'}  {_short(pool.texts[row][0])}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_CHARS else f"{line[: _TEXT_CHARS - 3]}..."


def _unscored(pool: PoolAnswers) -> bool:
    return bool(np.isnan(pool.quality).any())
