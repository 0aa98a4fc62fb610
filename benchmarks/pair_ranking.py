"""A pair ranker against a reward model, the best single model and the longest answer, on real judge preferences.

Any file of AlpacaEval's columns: instruction, outputs {model: text, with the reference's}, pref {model: probability
that the judge prefers it to the reference}. Cross-validated by prompt over the weakest models of the file (or those
named): each method picks one of their answers, and its figure is the mean preference of what it picked. Rankers, what
they know of the models, and the best single model come from the other folds alone. Rankers are reported twice: by the
texts alone, and with the prior of the models that wrote them (see `serve_app.ensemble.ranking.model_prior`), as an
ensemble is served.

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
FORMS = {"reward model": "pointwise", "pair ranker": "pair"}
KNOWN = ", models known"
SERVED = "pair ranker" + KNOWN
RANKERS = (*FORMS, *(name + KNOWN for name in FORMS))
METHODS = ("random pick", "longest answer", "best single", *RANKERS, "oracle")
Scores = dict[str, Floats]
"""By ranker, [prompts, models]."""
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
        return [
            ScoredCandidates(self.prompts[i], self.texts[i], self.pref[i][:, None], models=self.models) for i in rows
        ]


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


def fold_of(n: int, folds: int, split: int) -> Floats:
    """The fold of each prompt in a split, [n]; always the same."""
    return np.random.default_rng(split).permutation(n) % folds


def ranker_scores(answers: Answers, args: argparse.Namespace, split: int, report: Callable[[str], None]) -> Scores:
    """Held-out scores by ranker: those of every fold are kept in a file, so that a killed run resumes."""
    from serve_app.ensemble.ranking.lower_states import LowerStates

    states = LowerStates() if args.joint_layers else None
    folds = fold_of(len(answers.prompts), args.folds, split)
    found = {name: np.zeros(answers.pref.shape) for name in RANKERS}
    for name, form in FORMS.items():
        for fold in range(args.folds):
            path = kept_at(answers, args, form, split, fold)
            if not path.exists():
                report(f"{name}, split {split}, fold {fold + 1} of {args.folds}")
                both = _fold_scores(answers, folds == fold, form, args, states)
                args.work.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps([scores.tolist() for scores in both]), "utf-8")
            for key, own in zip((name, name + KNOWN), json.loads(path.read_text("utf-8")), strict=True):
                found[key][folds == fold] = np.array(own)
    return found


def kept_at(answers: Answers, args: argparse.Namespace, form: str, split: int, fold: int) -> Path:
    """The file of one fold's scores."""
    key = [form, split, fold, args.folds, answers.models, len(answers.prompts), *recipe_of(args).values()]
    return args.work / f"{form}-{split}-{fold}-{blake2b(repr(key).encode(), digest_size=8).hexdigest()}.json"


def _fold_scores(
    answers: Answers, held_out: Any, form: str, args: argparse.Namespace, states: Any
) -> tuple[Floats, Floats]:
    """Scores of the prompts held out, by a ranker that was trained on the others: by texts alone, and by models too."""
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
        encoder=args.encoder,
        seed=args.seed,
    )
    ranker = fit_ranker(answers.examples(np.flatnonzero(~held_out).tolist()), shape, recipe, tell, None, states)
    ranker.states = states
    rows = np.flatnonzero(held_out).tolist()
    plain = ranker.scores_of([(answers.prompts[i], answers.texts[i]) for i in rows])
    return np.stack(plain), np.stack([ranker.informed(own, answers.models) for own in plain])


def recipe_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the rankers are trained with."""
    names = ("epochs", "learning_rate", "pairs", "loss", "joint_layers", "source_tokens", "candidate_tokens", "seed")
    return {"encoder": Path(args.encoder).name, **{name: getattr(args, name) for name in names}}


def picks(answers: Answers, folds: Sequence[Floats], scores: Sequence[Scores]) -> Scores:
    """How often each method picks each answer, [prompts, models]: the mean over splits, with the folds of each."""
    pref, n = answers.pref, len(answers.prompts)
    found = {
        "random pick": np.full_like(pref, 1 / pref.shape[1]),
        "longest answer": _one_hot(answers.lengths),
        "best single": np.mean([_best_single(pref, own) for own in folds], axis=0),
    }
    found |= {name: np.mean([_one_hot(split[name]) for split in scores], axis=0) for name in RANKERS}
    found["oracle"] = _one_hot(pref)
    assert all(np.allclose(p.sum(axis=1), 1) and len(p) == n for p in found.values())
    return found


def _best_single(pref: Floats, folds: Floats) -> Floats:
    """The pick of the model that is best on the other folds."""
    single = np.zeros_like(pref)
    for fold in np.unique(folds):
        single[folds == fold, pref[folds != fold].mean(axis=0).argmax()] = 1.0
    return single


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


def figures(answers: Answers, chosen: Scores, scores: Sequence[Scores]) -> list[dict[str, Any]]:
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
            row["pairs_right"] = float(np.mean([pairs_right(split[name], pref) for split in scores]))
            row["by_split"] = [float((_one_hot(split[name]) * pref).sum(1).mean()) for split in scores]
        rows.append(row)
    return rows


def pairs_right(scores: Floats, pref: Floats) -> float:
    """Share of the pairs with different preferences that the scores order rightly, ties half."""
    gaps, margins = pref[:, :, None] - pref[:, None, :], scores[:, :, None] - scores[:, None, :]
    return float((1 + np.sign(gaps[gaps > 0]) * np.sign(margins[gaps > 0])).mean() / 2)


COMPARED = (
    *((SERVED, other) for other in METHODS if other not in (SERVED, "oracle")),
    *(("pair ranker", other) for other in ("reward model", "best single")),
)
"""Methods whose difference is reported."""


def differences(answers: Answers, chosen: Scores) -> list[dict[str, Any]]:
    """How much more preference one method's picks have than another's, on the same prompts."""
    found = []
    for one, other in COMPARED:
        gap = ((chosen[one] - chosen[other]) * answers.pref).sum(1)
        interval = bootstrap(lambda at, g=gap: float(g[at].mean()), len(gap), rounds=_ROUNDS)
        found.append({"of": one, "to": other, "value": interval.value, "low": interval.low, "high": interval.high})
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
    gaps = [[f"{g['of']} - {g['to']}", f"{100 * g['value']:+.1f}", _span(g["low"], g["high"])]
            for g in found["differences"]]  # fmt: skip
    by_split = "; ".join(
        f"{row['method']} {', '.join(f'{100 * value:.1f}' for value in row['by_split'])}"
        for row in found["rows"]
        if "by_split" in row
    )
    about = (
        f"{found['prompts']} prompts, {len(found['models'])} models, {found['folds']} folds by prompt, splits "
        f"{', '.join(map(str, found['splits']))}. Preference: how often a judge prefers the answer that a method picks "
        "to the reference's, in percent. Intervals: bootstrap of the prompts. Length-controlled: see "
        f"`benchmarks/pair_ranking.py`. Rankers: {found['recipe']}; *models known*: with a prior of the models "
        "that wrote the answers, fitted on the training folds.\n\n"
        f"Best single model: {found['best_single']}; it is chosen on the other folds. Serves by default: "
        f"{found['serves']}.\n\nBy split: {by_split}."
    )
    if found["note"]:
        about += f"\n\n{found['note']}"
    parts = [markdown(head, rows), markdown(["difference", "points", "95 %"], gaps)]
    return f"# Ranking real answers\n\n{about}\n\n" + "\n".join(parts) + f"\n{one_line(found['environment'])}\n"


def _span(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def draw(found: dict[str, Any], path: Path) -> None:
    """Bars of both figures with intervals."""
    figure, axes = plots.new_figure(1, 9, 4)
    at = np.arange(len(found["rows"]))
    for number, (key, low, high) in enumerate(
        (("preference", "low", "high"), ("controlled", "controlled_low", "controlled_high"))
    ):
        values = 100 * np.array([row[key] for row in found["rows"]])
        ends = 100 * np.array([[row[low], row[high]] for row in found["rows"]]).T
        label = "preference" if number == 0 else "length-controlled"
        axes.bar(at + 0.4 * number - 0.2, values, 0.38, yerr=np.abs(ends - values), label=label,
                 error_kw={"linewidth": 0.8})  # fmt: skip
    axes.set_xticks(at, [row["method"].replace(", ", ",\n") for row in found["rows"]], fontsize=7)
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
    p.add_argument("--splits", default="11,12", help="seeds of the splits into folds; commas")
    p.add_argument("--seed", type=int, default=0, help="of the trainings")
    p.add_argument("--encoder", default="minilm", help="or the folder of a Hugging Face encoder")
    p.add_argument("--epochs", type=int, default=4)
    p.add_argument("--learning-rate", type=float, default=3e-4)
    p.add_argument("--pairs", type=int, default=66, help="pairs of a prompt in an epoch")
    p.add_argument("--loss", choices=["bce", "bradley_terry"], default="bradley_terry")
    p.add_argument("--joint-layers", type=int, default=1, help="0: whole pairs in every layer, all of it trained")
    p.add_argument("--source-tokens", type=int, default=96)
    p.add_argument("--candidate-tokens", type=int, default=400)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--work", type=Path, default=BUILD / "pair_ranking", help="scores of finished folds are kept here")
    p.add_argument("--note", default="", help="is printed below the figures")
    p.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return p.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure, write JSON, table and plot; 1 if the pair ranker that serves is not above the reward model."""
    import torch

    args = arguments(argv)
    torch.set_num_threads(args.threads)
    stamp, answers = environment(), read(args.data, args.models)
    stamp["command"] = stamp["command"].replace(str(args.data), args.data.name).replace(str(args.work), "WORK")
    splits = [int(split) for split in args.splits.split(",")]
    scores = [ranker_scores(answers, args, split, tell) for split in splits]
    chosen = picks(answers, [fold_of(len(answers.prompts), args.folds, split) for split in splits], scores)
    rows = {row["method"]: row for row in figures(answers, chosen, scores)}
    above = rows[SERVED]["preference"] > rows["best single"]["preference"]
    found = {
        "environment": stamp,
        "prompts": len(answers.prompts),
        "models": list(answers.models),
        "folds": args.folds,
        "splits": splits,
        "recipe": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in recipe_of(args).items()),
        "rows": list(rows.values()),
        "differences": differences(answers, chosen),
        "best_single": answers.models[int(answers.pref.mean(axis=0).argmax())],
        "serves": f"the {SERVED}" if above else "the best single model",
        "note": args.note,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "pair_ranking.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (args.out / "pair_ranking.md").write_text(text(found), "utf-8")
    draw(found, args.out / "pair_ranking.png")
    print(text(found))
    return 0 if rows[SERVED]["preference"] > rows["reward model"]["preference"] else 1


if __name__ == "__main__":
    sys.exit(main())
