"""The one loop that trains networks: AdamW, warm-up, clipping, early stopping, checkpoints from which a run resumes.

What is trained, on what batches and with which loss is a `Trainable`. Reproducible: the order of batches and the
dropout of an epoch follow from the seed and the epoch's number, whatever ran before. Another kind of CPU rounds
differently (see `half_precision`). A run that was killed resumes at the step of its last checkpoint, with the result of
one that was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from serve_app.files import replacing
from serve_app.precision import has_bfloat16

_FORMAT = 2
_FILE = "training.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""
_RANDOM = "random."


class Trainable(Protocol):
    """A network with its data. The same arguments give the same batches, of whatever type `loss` takes."""

    def trained(self) -> Mapping[str, Any]:
        """The parameters that training changes, by name."""

    def train(self, on: bool) -> None:
        """Dropout, or none."""

    def batches(self, epoch: int) -> Sequence[Any]:
        """The batches of an epoch, in order, at least one."""

    def held_back(self) -> Sequence[Any]:
        """Batches that are not trained on: the loss over these says when to stop. May be empty."""

    def loss(self, batch: Any) -> tuple[Any, float]:
        """The mean loss over a batch, a tensor, and the weight of the batch in a mean over batches."""


@dataclass(frozen=True, slots=True)
class Descent:
    """How a learner is trained: `epochs` at most, `learning_rate` at its peak, `seed` of dropout.

    The rate rises in the share `warm_up` of the steps and then falls to 0 at the last planned step. `clip`: largest
    norm of a step's gradient, which is the mean over `accumulate` batches. Training stops after `patience` epochs
    without a better held-back loss. A checkpoint is written after each epoch, and within one every `checkpoint_s`
    seconds; progress is reported as often as `report_s` says.
    """

    epochs: int
    learning_rate: float
    seed: int = 0
    warm_up: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 2
    accumulate: int = 1
    checkpoint_s: float = 60.0
    report_s: float = 10.0

    def rate(self, step: float, steps: int) -> float:
        """The learning rate of a step, counted from 0, of `steps`."""
        rising = max(1, round(self.warm_up * steps))
        return self.learning_rate * max(0.0, min((step + 1) / rising, (steps - step) / max(1, steps - rising)))


@dataclass(slots=True)
class Course:
    """How far a run has come: epochs done, batches of the next one done, with the sums of their loss and weight.

    Also the least loss on what is held back, the weights that had it, and the epochs since then. `random`: states of
    the random generators, within an epoch.
    """

    epochs: int = 0
    batches: int = 0
    loss: float = 0.0
    weight: float = 0.0
    best_loss: float = float("inf")
    waited: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)


_NUMBERS = ("epochs", "batches", "loss", "weight", "best_loss", "waited")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file in a folder; `key` names the data and the recipe; another run's file is ignored."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / _FILE

    def write(self, course: Course, parameters: Mapping[str, Any], optimizer: Any) -> None:
        """Replace the file as a whole."""
        from safetensors.torch import save_file

        tensors = {f"now.{name}": p.detach() for name, p in parameters.items()}
        tensors |= {f"best.{name}": p for name, p in course.best.items()}
        tensors |= {f"{_RANDOM}{name}": state for name, state in course.random.items()}
        for name, parameter in parameters.items():
            state = optimizer.state[parameter]
            tensors |= {f"{moment}.{name}": state[moment] for moment in _MOMENTS if moment in state}
        about = {"format": _FORMAT, "key": self.key} | {name: getattr(course, name) for name in _NUMBERS}
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
            moments = {moment: tensors.get(f"{moment}.{name}") for moment in _MOMENTS}
            optimizer.state[parameter] = {m: t.to(parameter.device) for m, t in moments.items() if t is not None}
        best = {n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")}
        random = {n.removeprefix(_RANDOM): t for n, t in tensors.items() if n.startswith(_RANDOM)}
        return Course(**{name: about[name] for name in _NUMBERS}, best=best, random=random)

    def remove(self) -> None:
        """Delete the file; the run has ended."""
        self.path.unlink(missing_ok=True)


def descend(
    learner: Trainable, how: Descent, report: Callable[[str], None], checkpoint: Checkpoint | None = None
) -> float:
    """Train in place, up to the epoch with the least held-back loss; returns that loss, nan without anything held back.

    Without anything held back all epochs run, and the last one's weights stay. With `checkpoint` a killed run of the
    same key resumes; its file is removed at the end. The global state of random generators is left as it was.
    """
    run = _Run(learner, how, report, checkpoint)
    course, started = run.course, perf_counter()
    if course.epochs or course.batches:
        within = f" and {course.batches} batches" if course.batches else ""
        report(f"resumes after epoch {course.epochs}{within}")
    while course.epochs < how.epochs and course.waited < how.patience:
        trained_loss = run.epoch()
        loss = run.held_back_loss()
        report(
            f"epoch {course.epochs} of {how.epochs}: loss {trained_loss:.4f}, held back {loss:.4f}, "
            f"{perf_counter() - started:.0f} s"
        )
        if not loss >= course.best_loss:
            course.best_loss, course.waited = loss, 0
            course.best = {name: p.detach().clone() for name, p in learner.trained().items()}
        else:
            course.waited += 1
        run.keep()
    for name, parameter in learner.trained().items():
        parameter.data.copy_(course.best[name])
    if checkpoint is not None:
        checkpoint.remove()
    return course.best_loss


class _Run:
    """One run's optimizer, schedule and course."""

    def __init__(
        self, learner: Trainable, how: Descent, report: Callable[[str], None], checkpoint: Checkpoint | None
    ) -> None:
        import torch

        self._learner, self._how, self._report, self._checkpoint = learner, how, report, checkpoint
        self._parameters = list(learner.trained().values())
        self._devices = sorted({p.device.index or 0 for p in self._parameters if p.is_cuda})
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=how.learning_rate, weight_decay=how.weight_decay, fused=True
        )
        fresh = checkpoint is None
        self.course = Course() if fresh else checkpoint.resume(learner.trained(), self._optimizer)  # type: ignore[union-attr]
        self._steps = -(-len(learner.batches(0)) // how.accumulate)

    def epoch(self) -> float:
        """What is left of the next epoch; its mean loss on the way."""
        import torch

        course = self.course
        batches = self._learner.batches(course.epochs)
        self._learner.train(True)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng(self._devices):
            torch.manual_seed(self._how.seed * 1_000 + course.epochs)
            self._restore_random()
            kept = reported = perf_counter()
            for number in range(course.batches, len(batches)):
                self._step(batches[number], number, len(batches))
                course.batches, now = number + 1, perf_counter()
                stepped = course.batches % self._how.accumulate == 0
                if self._checkpoint is not None and stepped and now - kept > self._how.checkpoint_s:
                    self._keep_random()
                    self.keep()
                    kept = perf_counter()
                if now - reported > self._how.report_s:
                    self._report(self._progress(len(batches)))
                    reported = now
        self._learner.train(False)
        mean = course.loss / max(course.weight, 1e-12)
        course.epochs, course.batches, course.loss, course.weight, course.random = course.epochs + 1, 0, 0.0, 0.0, {}
        return mean

    def held_back_loss(self) -> float:
        """Mean loss over the held-back batches by their weights; nan without any."""
        import torch

        with torch.inference_mode():
            parts = [self._learner.loss(batch) for batch in self._learner.held_back()]
            total = sum(float(loss) * weight for loss, weight in parts)
        return total / sum(weight for _, weight in parts) if parts else float("nan")

    def keep(self) -> None:
        """Write a checkpoint, if there is a place for it."""
        if self._checkpoint is not None:
            self._checkpoint.write(self.course, self._learner.trained(), self._optimizer)

    def _step(self, batch: Any, number: int, of: int) -> None:
        import torch

        first = number - number % self._how.accumulate
        step = (self.course.epochs + first / of) * self._steps
        for group in self._optimizer.param_groups:
            group["lr"] = self._how.rate(step, self._steps * self._how.epochs)
        loss, weight = self._learner.loss(batch)
        share = min(self._how.accumulate, of - first)
        (loss / share).backward()
        if number + 1 == first + share:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._how.clip)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self.course.loss += float(loss.detach()) * weight
        self.course.weight += weight

    def _progress(self, of: int) -> str:
        course = self.course
        mean = course.loss / max(course.weight, 1e-12)
        return f"epoch {course.epochs + 1} of {self._how.epochs}: {100 * course.batches / of:.0f} %, loss {mean:.4f}"

    def _keep_random(self) -> None:
        import torch

        states = {f"cuda{device}": torch.cuda.get_rng_state(device) for device in self._devices}
        self.course.random = {"cpu": torch.get_rng_state(), **states}

    def _restore_random(self) -> None:
        import torch

        for name, state in self.course.random.items():
            if name == "cpu":
                torch.set_rng_state(state)
            else:
                torch.cuda.set_rng_state(state, int(name.removeprefix("cuda")))


def half_precision() -> bool:
    """Whether forward and backward passes run in bfloat16, see `mixed`; scoring stays in single precision."""
    return has_bfloat16()
