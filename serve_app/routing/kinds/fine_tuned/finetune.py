"""Fine-tunes a text network on labels that are distributions over classes: AdamW, warm-up, clipping, early stopping.

Cross-entropy against soft labels, as Hybrid LLM (arXiv 2404.14618, section 3) and RouteLLM's BERT classifier
(arXiv 2406.18665, section 4.2) train. Reproducible: the order of batches and the dropout of an epoch follow from the
seed and the epoch's number, whatever ran before. Another kind of CPU rounds differently (see `half_precision`).
A checkpoint after every epoch lets a killed run resume with the same result.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve_app.arrays import Floats
from serve_app.files import replacing
from serve_app.routing.base import Report
from serve_app.routing.kinds.fine_tuned.text_network import TextNetwork
from serve_app.routing.kinds.fine_tuned.text_network import states as frozen_states

_FORMAT = 1
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


@dataclass(slots=True)
class Course:
    """How far a run has come: epochs done, the least loss on what is held back, its weights, and epochs since then."""

    epochs: int = 0
    best_loss: float = float("inf")
    waited: int = 0
    best: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file in a folder; `key` names the data and the recipe; another run's file is ignored."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "finetune.safetensors"

    def write(self, course: Course, parameters: Mapping[str, Any], optimizer: Any) -> None:
        """Replace the file as a whole."""
        from safetensors.torch import save_file

        tensors = {f"now.{name}": p.detach() for name, p in parameters.items()}
        tensors |= {f"best.{name}": p for name, p in course.best.items()}
        for name, parameter in parameters.items():
            state = optimizer.state[parameter]
            tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS}
        about = {
            "format": _FORMAT,
            "key": self.key,
            "epochs": course.epochs,
            "best_loss": course.best_loss,
            "waited": course.waited,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as part:
            save_file({n: t.contiguous() for n, t in tensors.items()}, part, metadata={"course": json.dumps(about)})

    def resume(self, parameters: Mapping[str, Any], optimizer: Any) -> Course:
        """The course that the file holds, its weights and moments put back; a fresh one without a file of this key."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as kept:
                about = json.loads(kept.metadata()["course"])
                tensors = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return Course()  # no file, or a broken one: start from the beginning
        if about.get("format") != _FORMAT or about.get("key") != self.key:
            return Course()
        for name, parameter in parameters.items():
            parameter.data.copy_(tensors[f"now.{name}"])
            optimizer.state[parameter] = {moment: tensors[f"{moment}.{name}"] for moment in _MOMENTS}
        best = {name.removeprefix("best."): t for name, t in tensors.items() if name.startswith("best.")}
        return Course(about["epochs"], about["best_loss"], about["waited"], best)

    def remove(self) -> None:
        """Delete the file; the run has ended."""
        self.path.unlink(missing_ok=True)


_WEIGHT_DECAY = 0.01
_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises; it then falls to 0 at the last planned step."""
_CLIP = 1.0
"""Largest norm of a step's gradient."""
_HELD_BACK = 10
"""One distinct text in so many is not trained on: the loss over these says when to stop."""
_PATIENCE = 2
"""Epochs without a better loss after which training stops."""
_ROWS = 32
_SCORED_ROWS = 128


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast: `epochs` at most, `learning_rate` at its peak, `seed` of order and dropout."""

    epochs: int = 6
    learning_rate: float = 3e-4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Examples:
    """Distinct texts as tokens, with the mean label and the count of each."""

    rows: list[list[int]]
    labels: Floats
    weights: Floats
    held_back: NDArray[np.bool_]

    @classmethod
    def of(cls, network: TextNetwork, texts: Sequence[str], labels: Floats, seed: int) -> Examples:
        """`labels` of shape [len(texts), classes], each row a distribution. Held back by the text's hash."""
        distinct, where = np.unique(np.array(texts, dtype=object), return_inverse=True)
        counts = np.bincount(where).astype(np.float64)
        means = np.stack([np.bincount(where, column) / counts for column in labels.T], axis=1)
        keys = [zlib.crc32(f"{seed}\n{t}".encode("utf-8", "surrogatepass")) % _HELD_BACK == 0 for t in distinct]
        held_back = np.array(keys, dtype=np.bool_) & (not all(keys))
        return cls(network.tokens(list(distinct)), means, counts, held_back)

    def prior(self) -> Floats:
        """Smoothed class frequencies, shape [classes], all above 0."""
        totals = (self.labels * self.weights[:, None]).sum(0) + 0.5
        shares: Floats = totals / totals.sum()
        return shares

    def key(self, network: TextNetwork, recipe: Recipe) -> str:
        """Names the data, the recipe and the tensors that are trained."""
        digest = hashlib.blake2b(
            repr((self.rows, recipe, sorted(network.trained()), half_precision())).encode(), digest_size=16
        )
        digest.update(self.labels.tobytes() + self.weights.tobytes())
        return digest.hexdigest()


def finetune(
    network: TextNetwork,
    texts: Sequence[str],
    labels: Floats,
    recipe: Recipe,
    report: Report,
    checkpoint: Path | None = None,
) -> None:
    """Train the network's own part in place, up to the epoch with the least loss on the texts held back.

    `labels` has shape [n, classes], each row a distribution. Without anything held back (few texts) all epochs run.
    With `checkpoint`, a folder, every epoch is kept there until the run ends, and a killed run of the same data
    and recipe resumes.
    """
    examples = Examples.of(network, texts, labels, recipe.seed)
    _start_at_prior(network, examples.prior())
    training = _Training(network, examples, recipe)
    kept = None if checkpoint is None else Checkpoint(checkpoint, examples.key(network, recipe))
    course = Course() if kept is None else kept.resume(network.trained(), training.optimizer)
    if course.epochs:
        report(f"resumes after epoch {course.epochs}")
    started = perf_counter()
    while course.epochs < recipe.epochs and course.waited < _PATIENCE:
        trained_loss = training.epoch(course.epochs)
        loss = training.held_back_loss()
        course.epochs += 1
        report(
            f"epoch {course.epochs} of {recipe.epochs}: loss {trained_loss:.4f}, held back {loss:.4f}, "
            f"{perf_counter() - started:.0f} s"
        )
        if not loss >= course.best_loss:
            course.best_loss, course.waited = loss, 0
            course.best = {name: p.detach().clone() for name, p in network.trained().items()}
        else:
            course.waited += 1
        if kept is not None:
            kept.write(course, network.trained(), training.optimizer)
    for name, parameter in network.trained().items():
        parameter.data.copy_(course.best[name])
    if kept is not None:
        kept.remove()


class _Training:
    """One run's optimizer, schedule and the frozen part's output."""

    def __init__(self, network: TextNetwork, examples: Examples, recipe: Recipe) -> None:
        import torch

        self._network, self._examples, self._recipe = network, examples, recipe
        self._inside = np.flatnonzero(~examples.held_back)
        self._outside = np.flatnonzero(examples.held_back)
        self._half = half_precision()
        self._states = frozen_states.of(network, examples.rows)
        self._parameters = list(network.trained().values())
        self.optimizer = torch.optim.AdamW(
            self._parameters, lr=recipe.learning_rate, weight_decay=_WEIGHT_DECAY, fused=True
        )
        steps = max(1, -(-len(self._inside) // _ROWS) * recipe.epochs)
        self._rising, self._steps = max(1, round(_WARM_UP * steps)), steps

    def epoch(self, number: int) -> float:
        """One pass over the texts that are not held back; the mean loss on the way."""
        import torch

        network, total = self._network, 0.0
        network.train(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._recipe.seed * 1_000 + number)
            batches = self._batches(number)
            for step, batch in enumerate(batches, number * len(batches)):
                self._set_rate(step)
                loss = self._loss(batch)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP)
                self.optimizer.step()
                total += float(loss.detach()) * len(batch)
        network.train(False)
        return total / max(1, len(self._inside))

    def _set_rate(self, step: int) -> None:
        """Linear warm-up, then linear decay to 0 at the last planned step."""
        share = min((step + 1) / self._rising, (self._steps - step) / max(1, self._steps - self._rising))
        for group in self.optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * share

    def held_back_loss(self) -> float:
        """Mean loss over the held-back texts, weighted by their counts; nan without any."""
        import torch

        if len(self._outside) == 0:
            return float("nan")
        order = sorted(self._outside, key=lambda i: len(self._examples.rows[i]))
        batches = [order[start : start + _SCORED_ROWS] for start in range(0, len(order), _SCORED_ROWS)]
        with torch.inference_mode():
            parts = [(float(self._loss(b)), float(self._examples.weights[b].sum())) for b in batches]
        return sum(loss * weight for loss, weight in parts) / sum(weight for _, weight in parts)

    def _loss(self, batch: Sequence[int]) -> Any:
        import torch

        rows = [self._examples.rows[i] for i in batch]
        labels = torch.tensor(self._examples.labels[batch], dtype=torch.float32)
        weights = torch.tensor(self._examples.weights[batch], dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            if self._states is None:
                logits = self._network.logits(rows)
            else:
                with self._network.above_only():
                    logits = self._network.logits_above(rows, [self._states[i] for i in batch])
        losses = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
        return (losses * weights).sum() / weights.sum()

    def _batches(self, number: int) -> list[Any]:
        """Rows of similar length together, in random batches and order."""
        rng = np.random.default_rng([self._recipe.seed, number])
        lengths = np.array([len(self._examples.rows[i]) for i in self._inside])
        order = self._inside[np.argsort(lengths + rng.random(len(lengths)) * 2, kind="stable")]
        batches = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
        rng.shuffle(batches)
        return batches


def half_precision() -> bool:
    """Whether forward and backward passes run in bfloat16: where the CPU multiplies it natively, several times faster.

    Weights, their moments and the loss stay in single precision (Micikevicius et al. 2018), and so does scoring.
    """
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _start_at_prior(network: TextNetwork, prior: Floats) -> None:
    """Head at the classes' frequencies: the first steps need not learn those."""
    import torch

    with torch.no_grad():
        network.head.bias.copy_(torch.tensor(np.log(prior), dtype=torch.float32))
