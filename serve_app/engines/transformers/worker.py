"""The thread that owns the model: takes requests in, steps the batch, and posts chunks to the event loop.

One call into the loop per forward pass, for all rows. A cancelled request carries a flag that every step checks.

A freshly loaded model is tried first: its output in a batch with the slot cache must match its output alone without a
cache. Models differ in positions and masks; one that ignores those of `batch` would not fail but write nonsense.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable

import torch

from serve_app.config.engines import TransformersSettings
from serve_app.engines.transformers.batch import Batch, Sampled
from serve_app.engines.transformers.loading import LoadedModel, load_model
from serve_app.engines.transformers.lora import LoraStack
from serve_app.engines.transformers.metrics import EngineFigures
from serve_app.engines.transformers.scheduler import BatchLimits, Scheduler
from serve_app.engines.transformers.sequence import Mailbox, Request, Sequence
from serve_app.errors import ConfigError, JethroError, PoolUnavailable, UpstreamError
from serve_app.types import Chunk, Sampling

_STEPS = 2
_LENGTHS = (2, 7)
_TOLERANCE = {torch.float32: 0.02}
_HALF_TOLERANCE = 0.35
"""Largest difference of log-probabilities. Rounding stays far below; wrong positions or masks go far beyond."""


def check_batching(batch: Batch, loaded: LoadedModel) -> None:
    """Raises ConfigError if batched and plain log-probabilities differ. Leaves the batch empty."""
    sampling = Sampling(temperature=0, logprobs=True)
    vocabulary = loaded.model.config.get_text_config().vocab_size
    prompts = [[(7 * i + length) % vocabulary for i in range(length)] for length in _LENGTHS]
    requests = [Request.of(sampling, prompt, room=9, decode=lambda ids: "", eos_ids=frozenset()) for prompt in prompts]
    said: dict[Sequence, list[tuple[int, float]]] = {r.sequences[0]: [] for r in requests}
    for step in range(1 + _STEPS):
        sampled = batch.decode() if step else batch.prefill(list(said))
        for sequence, token, likely in sampled:
            assert likely is not None
            said[sequence].append((token, likely.logprob))
    batch.reset()
    worst = max(_difference(loaded, s.request.prompt_ids, tokens) for s, tokens in said.items())
    if not worst <= _TOLERANCE.get(loaded.model.dtype, _HALF_TOLERANCE):
        raise ConfigError(
            f"model {loaded.model.config.name_or_path!r} answers differently in a batch (log-probabilities are off by "
            f"{worst:.2g}): this engine cannot batch it; use engine.kind vllm"
        )


@torch.inference_mode()
def _difference(loaded: LoadedModel, prompt: list[int], said: list[tuple[int, float]]) -> float:
    """Largest difference to one plain pass over prompt and answer."""
    ids = torch.tensor([prompt + [token for token, _ in said]], device=loaded.device)
    logprobs = loaded.model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    plain = [float(logprobs[len(prompt) - 1 + i, token]) for i, (token, _) in enumerate(said)]
    return max(abs(a - b) for a, (_, b) in zip(plain, said, strict=True))


logger = logging.getLogger("jethro.engines")

CACHE_BYTES = 4 << 30
"""Bound on the memory of keys and values. One sequence alone may always run, up to the model's context."""

PREFILL_LOGITS = 1 << 25
"""Logits of a prefill at most (128 MiB as float32): with n prompts up to n x n x vocabulary are worked out."""

FAILURES_UNTIL_BROKEN = 3
"""Consecutive failed steps after which the engine reports itself broken, so that its replica is replaced."""

Event = tuple[Mailbox, Chunk | JethroError]


class Worker:
    """Start once, submit from the event loop's thread, stop once."""

    def __init__(self, settings: TransformersSettings, figures: EngineFigures) -> None:
        self._settings, self._figures = settings, figures
        self._inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._joining: list[Sequence] = []
        self._failures = 0

    async def start(self) -> LoadedModel:
        """Loads the model in the thread and tries one answer. Raises ConfigError if that fails."""
        self._loop = asyncio.get_running_loop()
        ready: asyncio.Future[LoadedModel] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="jethro-engine", daemon=True)
        self._thread.start()
        return await ready

    def submit(self, request: Request) -> None:
        """Queues a request; its chunks come to its mailbox."""
        self._inbox.put(request)

    async def stop(self) -> None:
        """Ends the thread after the current step; open requests get PoolUnavailable."""
        if self._thread is not None:
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self._batch.sequences)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a row."""
        return self._scheduler.waiting

    @property
    def lora(self) -> LoraStack:
        """Which adapters the model can take; what is in the batch belongs to the thread."""
        return self._batch.lora

    @property
    def broken(self) -> bool:
        """Whether the thread is gone or fails at every step."""
        return self._thread is None or not self._thread.is_alive() or self._failures >= FAILURES_UNTIL_BROKEN

    def _run(self, ready: "asyncio.Future[LoadedModel]") -> None:
        try:
            torch.set_num_threads(self._settings.threads)
            loaded = load_model(self._settings)
            self._batch = Batch(loaded)
            self._scheduler = Scheduler(_bounds(self._settings, loaded))
            check_batching(self._batch, loaded)
        except Exception as error:
            self._post(_fail_start, ready, self._settings.path, error)
            return
        self._post(_set_ready, ready, loaded)
        while self._take():
            self._step()
        self._fail(PoolUnavailable("the replica is stopping", retry_after_s=1), everything=True)

    def _take(self) -> bool:
        """Moves what was submitted to the scheduler; waits only if there is nothing else to do. False: stop."""
        idle = not self._batch.sequences and not self._scheduler.waiting
        while True:
            try:
                request = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            if request is None:
                return False
            self._scheduler.add(request)
            idle = False

    def _step(self) -> None:
        try:
            self._joining = self._scheduler.admit(self._batch.sequences)
            if self._joining:
                self._prefill(self._joining)
                self._joining = []
            if self._batch.sequences:
                self._decode()
            self._failures = 0
        except Exception:
            logger.exception("a step of the model failed; its requests get an error")
            self._failures += 1
            self._figures.failed()
            self._fail(UpstreamError("the model failed while it answered; the replica's log says why"))

    def _prefill(self, joiners: list[Sequence]) -> None:
        began = time.perf_counter()
        for sequence in joiners:
            sequence.request.placed += 1
        sampled = self._batch.prefill(joiners)
        tokens = sum(len(r.prompt_ids) for r in {s.request for s in joiners})
        self._figures.prefilled(tokens, len(sampled), time.perf_counter() - began)
        self._accept(sampled, first_row=len(self._batch.sequences) - len(sampled))

    def _decode(self) -> None:
        began = time.perf_counter()
        sampled = self._batch.decode()
        self._figures.decoded(len(sampled), time.perf_counter() - began)
        self._accept(sampled, first_row=0)

    def _accept(self, sampled: Sampled, first_row: int) -> None:
        """Adds each row's token, sends chunks, and removes finished and cancelled rows."""
        events: list[Event] = []
        leaving = []
        for row, (sequence, token, likely) in enumerate(sampled, first_row):
            if sequence.request.cancelled:
                leaving.append(row)
                continue
            if sequence.guide is not None and (error := sequence.guide.error) is not None:
                sequence.request.cancelled = True
                events.append((sequence.request.mailbox, error))
                leaving.append(row)
                continue
            chunk = sequence.accept(token, likely)
            if chunk is not None:
                events.append((sequence.request.mailbox, chunk))
                if chunk.finish_reason is not None:
                    leaving.append(row)
        if leaving:
            self._batch.leave(leaving)
        if events:
            self._post(_deliver, events)

    def _fail(self, error: JethroError, *, everything: bool = False) -> None:
        """Ends the requests in the batch with an error; with `everything` those that wait as well."""
        sequences = [*self._batch.sequences, *self._joining]
        self._batch.reset()
        self._joining = []
        if everything:
            sequences += self._scheduler.clear()
        requests = {s.request for s in sequences}
        for request in requests:
            request.cancelled = True
        self._post(_deliver, [(request.mailbox, error) for request in requests])

    def _post(self, call: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:
            logger.warning("the event loop is closed; what the model said is dropped")


def _deliver(events: list[Event]) -> None:
    for mailbox, item in events:
        mailbox.put(item)


def _set_ready(ready: "asyncio.Future[LoadedModel]", loaded: LoadedModel) -> None:
    if not ready.done():
        ready.set_result(loaded)


def _fail_start(ready: "asyncio.Future[LoadedModel]", path: str, error: Exception) -> None:
    if not isinstance(error, ConfigError):
        logger.error("model %s does not run", path, exc_info=error)
        error = ConfigError(f"model {path!r} does not run in this engine: {error}; try engine.kind vllm")
    if not ready.done():
        ready.set_exception(error)


def _bounds(settings: TransformersSettings, loaded: LoadedModel) -> BatchLimits:
    config = loaded.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cell_bytes = 2 * config.num_hidden_layers * heads * width * loaded.model.dtype.itemsize
    prefill_rows = max(1, int((PREFILL_LOGITS / config.vocab_size) ** 0.5))
    return BatchLimits(settings.max_batch, prefill_rows, cells=CACHE_BYTES // cell_bytes)
