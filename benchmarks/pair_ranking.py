"""A pair ranker against a reward model, the best single model and the longest answer, on real judge preferences.

Any file of AlpacaEval's columns: instruction, outputs {model: text, with the reference's}, pref {model: probability
that the judge prefers it to the reference}. Cross-validated by prompt over the weakest models of the file (or those
named): each method picks one of their answers, and its figure is the mean preference of what it picked. Rankers and the
best single model are chosen on the other folds alone.

The length-controlled figure follows AlpacaEval 2's (Dubois et al. 2024, arXiv 2404.04475): the preference is regressed,
by logistic regression, on a term for each model and on tanh of the standardized difference in length to the reference,
whose weight all models share; a method's figure is the preference that is left when the difference is 0.
"""

import argparse
import gzip
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.process import BUILD
from benchmarks.stamp import environment, one_line
from benchmarks.table import markdown
from serve_app import plots
from serve_app.arrays import Floats, sigmoid
from serve_app.data.mixinstruct import ScoredCandidates
from serve_app.errors import DataError
from serve_app.learning.metrics import bootstrap

REFERENCE = "gpt4_1106_preview"
RANKERS = {"reward model": "pointwise", "pair ranker": "pair"}
METHODS = ("random pick", "longest answer", "best single", *RANKERS, "oracle")
_ROUNDS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Of each prompt the models' texts; `pref` and `longer` [prompts, models]: preference, and characters more than
    the reference has."""

    models: tuple[str, ...]
    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    pref: Floats
    longer: Floats

    @property
    def lengths(self) -> Floats:
        """Characters, [prompts, models]."""
        return np.array([[len(text) for text in own] for own in self.texts], dtype=np.float64)

    def examples(self, rows: Sequence[int]) -> list[ScoredCandidates]:
        """What rankers learn from."""
        return [ScoredCandidates(self.prompts[i], self.texts[i], self.pref[i][:, None]) for i in rows]


def read(path: Path, models: str) -> Answers:
    """The file; `models`: weakest:N by mean preference, or comma-separated names."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in raw.splitlines()]
    names = sorted(rows[0]["pref"], key=lambda m: float(np.mean([row["pref"][m] for row in rows])))
    kind, _, count = models.partition(":")
    chosen = names[: int(count)] if kind == "weakest" else [name.strip() for name in models.split(",")]
    if missing := [name for name in chosen if name not in names]:
        raise DataError(f"{path}: has no model {missing[0]!r}; it has {', '.join(names)}")
    texts = tuple(tuple(row["outputs"][m] for m in chosen) for row in rows)
    longer = [[len(t) - len(row["outputs"][REFERENCE]) for t in own] for row, own in zip(rows, texts, strict=True)]
    pref = np.array([[row["pref"][m] for m in chosen] for row in rows])
    return Answers(tuple(chosen), tuple(row["instruction"] for row in rows), texts, pref, np.array(longer, float))


def fold_of(n: int, folds: int) -> Floats:
    """The fold of each prompt, [n]; always the same."""
    return np.random.default_rng(0).permutation(n) % folds


def ranker_scores(answers: Answers, args: argparse.Namespace, seed: int, report: Callable[[str], None]) -> Any:
    """Held-out scores by method, [prompts, models] each: every fold is kept, so that a killed run resumes."""
    from serve_app.ensemble.ranking.lower_states import LowerStates

    joint = args.joint_layers or None
    states = LowerStates() if joint is not None else None
    folds, found = fold_of(len(answers.prompts), args.folds), {}
    for name, form in RANKERS.items():
        found[name] = np.zeros(answers.pref.shape)
        for fold in range(args.folds):
            key = [form, seed, fold, args.folds, answers.models, len(answers.prompts), *recipe_of(args).values()]
            path = args.work / f"{form}-{blake2b(repr(key).encode(), digest_size=8).hexdigest()}.json"
            if not path.exists():
                report(f"{name}, seed {seed}, fold {fold + 1} of {args.folds}")
                scores = _fold_scores(answers, folds == fold, form, seed, args, states)
                args.work.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(scores.tolist()), "utf-8")
            found[name][folds == fold] = np.array(json.loads(path.read_text("utf-8")))
    return found


def _fold_scores(
    answers: Answers, held_out: Any, form: str, seed: int, args: argparse.Namespace, states: Any
) -> Floats:
    """Scores of the prompts held out, by a ranker that was trained on the others."""
    from serve_app.ensemble.ranking.network import NetworkShape
    from serve_app.ensemble.ranking.pair_ranker import fit_ranker
    from serve_app.ensemble.ranking.sequence import Lengths
    from serve_app.ensemble.ranking.training import RankingRecipe

    joint = args.joint_layers or None
    shape = NetworkShape(form, ("preference",), Lengths(args.source_tokens, args.candidate_tokens), joint)  # type: ignore[arg-type]
    recipe = RankingRecipe(
        epochs=args.epochs,
        learning_rate=args.learning_rate,
        pairs=args.pairs,
        loss=args.loss,
        train_layers=joint,
        patience=args.epochs,
        seed=seed,
    )
    ranker = fit_ranker(answers.examples(np.flatnonzero(~held_out).tolist()), shape, recipe, tell, None, states)
    ranker.states = states
    rows = np.flatnonzero(held_out).tolist()
    return np.stack(ranker.scores_of([(answers.prompts[i], answers.texts[i]) for i in rows]))


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the rankers are trained with."""
    names = ("epochs", "learning_rate", "pairs", "loss", "joint_layers", "source_tokens", "candidate_tokens")
    return {name: getattr(args, name) for name in names}


def picks(answers: Answers, folds: Floats, scores: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    """How often each method picks each answer, [prompts, models]; a ranker's is the mean over seeds."""
    pref, n = answers.pref, len(answers.prompts)
    single = np.zeros_like(pref)
    for fold in np.unique(folds):
        single[folds == fold, pref[folds != fold].mean(axis=0).argmax()] = 1.0
    found = {
        "random pick": np.full_like(pref, 1 / pref.shape[1]),
        "longest answer": _one_hot(answers.lengths),
        "best single": single,
    }
    found |= {name: np.mean([_one_hot(seed[name]) for seed in scores], axis=0) for name in RANKERS}
    found["oracle"] = _one_hot(pref)
    assert all(np.allclose(p.sum(axis=1), 1) and len(p) == n for p in found.values())
    return found


def _one_hot(scores: Floats) -> Floats:
    chosen = np.zeros_like(scores)
    chosen[np.arange(len(scores)), scores.argmax(axis=1)] = 1.0
    return chosen


def length_weight(answers: Answers) -> tuple[float, Floats]:
    """The weight of length that all models share, and tanh of the standardized differences [prompts, models]."""
    x = np.tanh(answers.longer / answers.longer.std())
    terms, weight = np.zeros(len(answers.models)), 0.0
    for _ in range(100):  # Newton's method on the cross-entropy of soft labels
        p = sigmoid(terms + weight * x)
        spread, error = p * (1 - p), answers.pref - p
        width = len(terms)
        hessian = np.zeros((width + 1, width + 1))
        hessian[:width, :width] = np.diag(spread.sum(axis=0) + 1e-6)
        hessian[width, :width] = hessian[:width, width] = (spread * x).sum(axis=0)
        hessian[width, width] = (spread * x * x).sum() + 1e-6
        step = np.linalg.solve(hessian, np.append(error.sum(axis=0), (error * x).sum()))
        terms, weight = terms + step[:width], weight + float(step[width])
        if np.abs(step).max() < 1e-9:
            break
    return weight, x


def controlled(picked: Floats, pref: Floats, offset: Floats) -> float:
    """The preference of a method's picks at the reference's length; `offset`: what length explains, in log-odds."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        excess = float((picked * (sigmoid(middle + offset) - pref)).sum())
        low, high = (low, middle) if excess > 0 else (middle, high)
    return float(sigmoid((low + high) / 2))


def figures(answers: Answers, chosen: dict[str, Floats], scores: Sequence[dict[str, Floats]]) -> list[dict[str, Any]]:
    """A row for each method: preference and length-controlled preference with 95 % intervals, characters picked."""
    pref, (weight, x) = answers.pref, length_weight(answers)
    rows = []
    for name in METHODS:
        own = chosen[name]
        plain = bootstrap(lambda at, o=own: float((o[at] * pref[at]).sum(1).mean()), len(pref), rounds=_ROUNDS)
        free = bootstrap(lambda at, o=own: controlled(o[at], pref[at], weight * x[at]), len(pref), rounds=_ROUNDS // 10)
        row = {"method": name, "preference": plain.value, "low": plain.low, "high": plain.high}
        row |= {"controlled": free.value, "controlled_low": free.low, "controlled_high": free.high}
        row["characters"] = float((own * answers.lengths).sum(1).mean())
        if name in RANKERS:
            row["pairs_right"] = float(np.mean([pairs_right(seed[name], pref) for seed in scores]))
            row["by_seed"] = [float((_one_hot(seed[name]) * pref).sum(1).mean()) for seed in scores]
        rows.append(row)
    return rows


def pairs_right(scores: Floats, pref: Floats) -> float:
    """Share of the pairs with different preferences that the scores order rightly, ties half."""
    gaps, margins = pref[:, :, None] - pref[:, None, :], scores[:, :, None] - scores[:, None, :]
    return float((1 + np.sign(gaps[gaps > 0]) * np.sign(margins[gaps > 0])).mean() / 2)


def differences(answers: Answers, chosen: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """The pair ranker's preference minus another method's, on the same prompts."""
    found = {}
    for name in ("reward model", "best single", "longest answer", "random pick"):
        gap = ((chosen["pair ranker"] - chosen[name]) * answers.pref).sum(1)
        interval = bootstrap(lambda at, g=gap: float(g[at].mean()), len(gap), rounds=_ROUNDS)
        found[name] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return found


def text(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = ["method", "preference, %", "95 %", "length-controlled, %", "95 %", "characters", "pairs right, %"]
    rows = []
    for row in found["rows"]:
        right = f"{100 * row['pairs_right']:.1f}" if "pairs_right" in row else None
        rows.append([row["method"], f"{100 * row['preference']:.1f}", _span(row["low"], row["high"]),
                     f"{100 * row['controlled']:.1f}", _span(row["controlled_low"], row["controlled_high"]),
                     f"{row['characters']:,.0f}", right])  # fmt: skip
    gaps = [[f"pair ranker - {name}", f"{100 * g['value']:+.1f}", _span(g["low"], g["high"])]
            for name, g in found["differences"].items()]  # fmt: skip
    about = (
        f"{found['prompts']} prompts, {len(found['models'])} models, {found['folds']} folds by prompt, "
        f"{found['seeds']} seed(s). Preference: how often a judge prefers the answer that a method picks to the "
        "reference's, in percent. Intervals: bootstrap of the prompts. Length-controlled: see "
        f"`benchmarks/pair_ranking.py`. Both rankers: MiniLM, {found['recipe']}.\n\nBest single model: "
        f"{found['best_single']}; it is chosen on the other folds. Which of the two serves by default where the pair "
        f"ranker is not above it: {found['serves']}."
    )
    parts = [markdown(head, rows), markdown(["difference", "points", "95 %"], gaps)]
    return f"# Ranking real answers\n\n{about}\n\n" + "\n".join(parts) + f"\n{one_line(found['environment'])}\n"


def _span(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def draw(found: dict[str, Any], path: Path) -> None:
    """Bars of both figures with intervals."""
    figure, axes = plots.new_figure(1, 8, 4)
    at = np.arange(len(found["rows"]))
    for number, (key, low, high) in enumerate(
        (("preference", "low", "high"), ("controlled", "controlled_low", "controlled_high"))
    ):
        values = 100 * np.array([row[key] for row in found["rows"]])
        ends = 100 * np.array([[row[low], row[high]] for row in found["rows"]]).T
        label = "preference" if number == 0 else "length-controlled"
        axes.bar(at + 0.4 * number - 0.2, values, 0.38, yerr=np.abs(ends - values), label=label,
                 error_kw={"linewidth": 0.8})  # fmt: skip
    axes.set_xticks(at, [row["method"] for row in found["rows"]], fontsize=8)
    plots.finish(axes, f"{found['prompts']} prompts, {len(found['models'])} models", ylabel="judge preference, %")
    plots.save(figure, path)


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.pair_ranking", description=__doc__.splitlines()[0])
    folder = os.environ.get("JETHRO_TEST_DATA")
    default = Path(folder) / "ensemble" / "alpaca_eval_dev.jsonl.gz" if folder else None
    p.add_argument("--data", type=Path, default=default, required=default is None, help="JSON lines, gzipped or not")
    p.add_argument("--models", default="weakest:12", help="weakest:N, or comma-separated names")
    p.add_argument("--folds", type=int, default=5)
    p.add_argument("--seeds", type=int, default=2, help="trainings of each ranker and fold")
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--learning-rate", type=float, default=3e-4)
    p.add_argument("--pairs", type=int, default=66, help="pairs of a prompt in an epoch")
    p.add_argument("--loss", choices=["bce", "bradley_terry"], default="bradley_terry")
    p.add_argument("--joint-layers", type=int, default=1, help="0: whole pairs in every layer, all of it trained")
    p.add_argument("--source-tokens", type=int, default=64)
    p.add_argument("--candidate-tokens", type=int, default=128)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--work", type=Path, default=BUILD / "pair_ranking", help="scores of finished folds are kept here")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, write JSON, table and plot; 1 if the pair ranker is not above the reward model."""
    import torch

    args = arguments(argv)
    torch.set_num_threads(args.threads)
    stamp, answers = environment(), read(args.data, args.models)
    stamp["command"] = stamp["command"].replace(str(args.data), args.data.name).replace(str(args.work), "WORK")
    scores = [ranker_scores(answers, args, seed, tell) for seed in range(args.seeds)]
    chosen = picks(answers, fold_of(len(answers.prompts), args.folds), scores)
    rows = {row["method"]: row for row in figures(answers, chosen, scores)}
    best = answers.models[int(answers.pref.mean(axis=0).argmax())]
    above = rows["pair ranker"]["preference"] > rows["best single"]["preference"]
    found = {
        "environment": stamp,
        "prompts": len(answers.prompts),
        "models": list(answers.models),
        "folds": args.folds,
        "seeds": args.seeds,
        "recipe": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in recipe_of(args).items()),
        "rows": list(rows.values()),
        "differences": differences(answers, chosen),
        "best_single": best,
        "serves": "the pair ranker" if above else "the best single model",
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pair_ranking.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "pair_ranking.md").write_text(text(found), "utf-8")
    draw(found, args.out / "pair_ranking.png")
    print(text(found))
    return 0 if rows["pair ranker"]["preference"] > rows["reward model"]["preference"] else 1


if __name__ == "__main__":
    sys.exit(main())
