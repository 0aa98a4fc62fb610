"""Tries a freshly loaded model: does it say in a batch, with the slot cache, what it says alone and without a cache?

Models differ in how they count positions and read masks. One that ignores what `batch` gives it would not fail but talk
nonsense, so it is found out here, before the first caller.
"""

import torch

from serve_app.engines.transformers.batch import Batch
from serve_app.engines.transformers.loading import LoadedModel
from serve_app.engines.transformers.sequence import Request, Sequence
from serve_app.errors import ConfigError
from serve_app.types import Sampling

_STEPS = 2
_LENGTHS = (2, 7)
_TOLERANCE = {torch.float32: 0.02}
_HALF_TOLERANCE = 0.35
"""Largest difference of log-probabilities. Rounding stays far below; wrong positions or masks go far beyond."""


def check_batching(batch: Batch, loaded: LoadedModel) -> None:
    """Raises ConfigError if batched and plain log-probabilities differ. Leaves the batch empty."""
    sampling = Sampling(temperature=0, logprobs=True)
    prompts = [
        [(7 * i + length) % loaded.model.config.get_text_config().vocab_size for i in range(length)]
        for length in _LENGTHS
    ]
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
