"""`python -m benchmarks.cascade_signals`: what each signal of a cascade is worth on the lab, alone and combined.

The lab's models answer unseen queries (one half to fit on, the other to measure on). Each signal judges the small
model's answer, whole or by its first tokens; thresholds are fitted to a quality drop and measured on the other half.
The chains that ship are measured too and must keep their word. With `--recorded FILE` and `--pair WEAK:STRONG` also
what calibrated pairs give on recorded answers at the cost of plain thresholds (fitted on `train`, reported on `test`).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

import serve_app.cascade
from benchmarks.cascade_signals_plot import draw
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app.cascade.artefact import load_chain
from serve_app.cascade.base import Signal
from serve_app.cascade.fitting.confidence import LOGPROB_SIGNALS, ConfidencePlan, fit_confidence, opening, raw_values
from serve_app.cascade.fitting.evaluation import held_out_of, outcomes, replay_of
from serve_app.cascade.fitting.fit import ChainPlan
from serve_app.cascade.fitting.held_out import drop
from serve_app.cascade.fitting.thresholds import ChainReplay, fit_thresholds
from serve_app.cascade.signals.consistency import AnswerAgreement
from serve_app.cascade.signals.tokens import (
    Brevity,
    Entropy,
    Margin,
    MeanLogprob,
    MinLogprob,
    Prior,
    QuantileLogprob,
    SumLogprob,
)
from serve_app.data.collection.lab import Half, LabPlan, record_lab, unseen_queries
from serve_app.data.recorded import Recorded, read, write_answers
from serve_app.decision.target import COST, Target
from serve_app.lab import models_dir
from serve_app.learning.metrics import auc, calibration_error
from serve_app.routing.registry import load_router

NAME = "cascade_signals"
RESULTS = Path(__file__).parent / "results"
PREFIXES = (None, 1, 2, 3)
MOST_STRONG, MOST_DROP = 0.5, 0.01
_SAMPLES = 4
_LEARN_SEED, _MEASURE_SEED = 7, 3
_PLAIN_SHARES = (0.25, 0.5, 0.75)
"""Deferral shares of the plain threshold cascade, as quantiles of the train part."""
_BUDGETS = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One signal at one prefix; `drop` against always-large with its 95 % interval, on queries not fitted on."""

    signal: str
    tokens: str
    auc: float
    calibration_error: float
    strong_share: float
    drop: float
    drop_low: float
    drop_high: float
    cost_share: float


def mixes() -> Iterator[tuple[str, ConfidencePlan]]:
    """What is compared."""
    alone: tuple[Signal, ...] = (
        *(MeanLogprob(), MinLogprob(), QuantileLogprob(0.25), SumLogprob(), Brevity()),
        *(Margin("worst"), Margin("mean"), Entropy("worst"), Entropy("mean"), AnswerAgreement(_SAMPLES), Prior()),
    )
    for signal in alone:
        reduce = getattr(signal, "reduce", "")
        yield f"{signal.name} {reduce}".strip(), ConfidencePlan((signal,))
    yield "all log-probs", ConfidencePlan(LOGPROB_SIGNALS)
    yield "answer scorer", ConfidencePlan((), scorer="minilm")
    yield "log-probs + agreement", ConfidencePlan((*LOGPROB_SIGNALS, AnswerAgreement(_SAMPLES)))
    yield "log-probs + scorer", ConfidencePlan(LOGPROB_SIGNALS, scorer="minilm")
    yield "log-probs + prior", ConfidencePlan()
    yield "log-probs + prior, isotonic", ConfidencePlan(calibrator="isotonic")
    yield "log-probs + prior, blended", ConfidencePlan(calibrator="blended")
    yield "log-probs + prior, cost-aware", ConfidencePlan(cost_aware=True)
    yield "log-probs + prior + agreement", ConfidencePlan((*LOGPROB_SIGNALS, Prior(), AnswerAgreement(_SAMPLES)))


def measure(name: str, plan: ConfidencePlan, learn: Recorded, measured: Recorded, target: Target) -> Row:
    """A judge of the first model, fitted on one half, on the other."""
    judged = [row[0] for row in learn.evidence]
    raw = raw_values(plan.signals, judged, plan.prefix)
    fitted, own = fit_confidence(plan, raw, learn.ok[:, 0], judged, learn.cost_usd[:, 1])
    seen = [opening(row[0], plan.prefix) for row in measured.evidence]
    p = fitted.probabilities(raw_values(plan.signals, seen), seen)
    sampled = any(signal.needs.samples for signal in plan.signals)
    walks = [
        ChainReplay(column[:, None], r.ok, r.cost_usd + (r.extra_cost_usd if sampled else 0.0))
        for column, r in ((own, learn), (p, measured))
    ]
    thresholds = fit_thresholds(walks[0], target)
    assert thresholds is not None, "always asking the large model is within every drop"
    level = walks[1].level(thresholds)
    found = drop(np.where(level == 1, measured.ok[:, 1], measured.ok[:, 0]), measured.ok[:, 1])
    outcome = walks[1].outcome(thresholds)
    known = np.maximum(p, 0.0)
    return Row(
        name,
        "whole" if plan.prefix is None else str(plan.prefix),
        auc(p, measured.ok[:, 0] >= 0.5),
        calibration_error(known, measured.ok[:, 0]),
        outcome.strong_share,
        found.value,
        found.low,
        found.high,
        outcome.cost_usd / float(measured.cost_usd[:, 1].mean()),
    )


def shipped(measured: Recorded) -> list[Row]:
    """The lab's chains as they ship."""
    rows = []
    folder = Path(next(iter(serve_app.cascade.__path__))) / "lab"
    for name in ("whole", "stream"):
        chain = load_chain(folder / name)
        walk = replay_of(chain, measured)
        found = held_out_of(chain, walk)
        lost = drop(found.quality, measured.ok[:, 1])
        p, right = walk.probability[:, 0], walk.ok[:, 0]
        error = calibration_error(np.maximum(p, 0.0), right)
        share = float(found.cost_usd.mean()) / float(measured.cost_usd[:, 1].mean())
        tokens = "whole" if chain.probe_tokens is None else str(chain.probe_tokens)
        label = f"shipped {name} ({chain.version})"
        rows.append(
            Row(label, tokens, auc(p, right >= 0.5), error, found.strong_share, lost.value, lost.low, lost.high, share)
        )
    return rows


@dataclass(frozen=True, slots=True)
class PairRow:
    """A pair of recorded models: the plain threshold's quality and, at its cost, that of calibrated ones (test)."""

    pair: str
    deferred: float
    cost_share: float
    plain: float
    calibrated: float
    cost_aware: float


def pair_rows(recorded: Recorded, weak: str, strong: str) -> list[PairRow]:
    """Quality at the cost of each plain threshold, between budgets by linear interpolation."""
    train, test = (recorded.of((weak, strong)).split(name) for name in ("train", "test"))
    lowest, highest = float(train.cost_usd[:, 0].mean()), float(train.cost_usd.sum(1).mean())
    budgets = np.linspace(lowest, highest, _BUDGETS).tolist()
    curves = []
    for aware in (False, True):
        confidence = ConfidencePlan((MeanLogprob(),), "blended", cost_aware=aware)
        plan = ChainPlan((weak, strong), Target(COST, 1.0), confidence, confidence_is="mean_logprob")
        found = sorted((o.cost_usd, o.quality) for o in outcomes(train, test, plan, budgets) if o is not None)
        curves.append(np.array(found))
    rows = []
    for share in _PLAIN_SHARES:
        deferred = test.confidence[:, 0] < np.quantile(train.confidence[:, 0], share)
        cost = float(test.cost_usd[:, 0].mean() + (test.cost_usd[:, 1] * deferred).mean())
        quality = float(np.where(deferred, test.ok[:, 1], test.ok[:, 0]).mean())
        at = [float(np.interp(cost, curve[:, 0], curve[:, 1])) for curve in curves]
        label = f"{weak} -> {strong}"
        rows.append(
            PairRow(label, float(deferred.mean()), cost / float(test.cost_usd[:, 1].mean()), quality, at[0], at[1])
        )
    return rows


def answers(half: Half, n: int, folder: Path) -> Recorded:
    """Fresh answers of the lab's models with the prior of the shipped router, none of whose queries are among them."""
    router = load_router("complexity")
    data = router.card["data"]
    known = unseen_queries(int(data["n"]), int(data["seed"]), "learn") if half == "learn" else []
    seed = _LEARN_SEED if half == "learn" else _MEASURE_SEED
    without = frozenset(item.prompt for item in known)
    found = record_lab(
        models_dir(), LabPlan(n, half, seed, top_logprobs=5, extra_samples=_SAMPLES, without=without), _say
    )
    found = replace(found, prior=router.router.score(found.queries))
    write_answers(found, folder / f"{half}.jsonl")
    return Recorded.from_dataset(found)


def compared(learn: Recorded, measured: Recorded, target: Target) -> Iterator[Row]:
    """Every mix at every prefix, reported as it is measured."""
    for prefix in PREFIXES:
        for name, plan in mixes():
            if prefix is not None and plan.scorer is not None:
                continue  # a character or three say nothing to a sentence encoder
            started = perf_counter()
            row = measure(name, replace(plan, prefix=prefix), learn, measured, target)
            figures = f"AUC {row.auc:.4f}, {100 * row.strong_share:.1f} % strong, drop {100 * row.drop:.2f} %"
            _say(f"{row.tokens:>5} {name:30} {figures}, {perf_counter() - started:.1f} s")
            yield row


def main(argv: Sequence[str] | None = None) -> int:
    """0 if the chains that ship keep their bounds on the half they have not seen."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cascade_signals", description=__doc__)
    parser.add_argument("--learn", type=int, default=6_000, help="queries to fit on")
    parser.add_argument("--measure", type=int, default=5_000, help="queries to measure on")
    parser.add_argument("--target", default="quality-drop=0.005")
    parser.add_argument(
        "--recorded", type=Path, action="append", default=[], help="recorded answers with train and test"
    )
    parser.add_argument("--pair", action="append", default=[], help="WEAK:STRONG in those files")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    stamp = environment()
    stamp["command"] = " ".join(Path(word).name for word in stamp["command"].split())  # where data lie is no result
    with TemporaryDirectory() as folder:
        learn = answers("learn", options.learn, Path(folder))
        measured = answers("measure", options.measure, Path(folder))
    rows = list(compared(learn, measured, Target.parse(options.target)))
    chains = shipped(measured)
    pairs = {
        path.name.partition(".")[0]: [r for pair in options.pair for r in pair_rows(read(path), *pair.split(":"))]
        for path in options.recorded
    }
    text = report(rows, chains, pairs, options.target, (len(learn), len(measured), one_line(stamp)))
    body: dict[str, Any] = {
        "environment": stamp,
        "target": options.target,
        "learn": len(learn),
        "measure": len(measured),
        "signals": [asdict(row) for row in rows],
        "shipped": [asdict(row) for row in chains],
        "pairs": {name: [asdict(row) for row in found] for name, found in pairs.items()},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{NAME}.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
    (options.out / f"{NAME}.md").write_text(text, "utf-8")
    draw([*body["shipped"], *body["signals"]], options.target, one_line(stamp), options.out / f"{NAME}.png")
    print(text)
    return 0 if all(keeps(row) for row in chains) else 1


def keeps(row: Row) -> bool:
    """Whether a chain stays within the bounds of a shipped one."""
    return row.strong_share <= MOST_STRONG and row.drop <= MOST_DROP


def report(
    rows: Sequence[Row],
    chains: Sequence[Row],
    pairs: dict[str, list[PairRow]],
    target: str,
    about: tuple[int, int, str],
) -> str:
    """The tables."""
    head = ["signal", "tokens", "AUC", "calibration error", "strong %", "drop % [95 %]", "cost % of large"]
    parts = [
        "# What a cascade's signals are worth on the lab\n",
        f"small -> large, fitted to {target} on {about[0]:,} unseen queries, measured on {about[1]:,} of the other "
        f"half. {about[2]}.\n",
        markdown(head, [_cells(row) for row in (*chains, *rows)]),
    ]
    for name, found in pairs.items():
        parts.append(f"\n## {name}: calibrated pairs at the cost of plain thresholds (test)\n")
        titles = ["pair", "deferred %", "cost % of strong", "plain", "calibrated", "cost-aware"]
        cells = [
            [r.pair, f"{100 * r.deferred:.0f}", f"{100 * r.cost_share:.0f}"]
            + [f"{x:.4f}" for x in (r.plain, r.calibrated, r.cost_aware)]
            for r in found
        ]
        parts.append(markdown(titles, cells))
    return "\n".join(parts)


def _cells(row: Row) -> list[str]:
    interval = f"{100 * row.drop:.2f} [{100 * row.drop_low:.2f}, {100 * row.drop_high:.2f}]"
    figures = [f"{row.auc:.4f}", f"{row.calibration_error:.3f}", f"{100 * row.strong_share:.1f}", interval]
    return [row.signal, row.tokens, *figures, f"{100 * row.cost_share:.0f}"]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
