"""Adapters from the Hugging Face hub: three files of a repository, never a pickle."""

import re
from pathlib import Path
from typing import Any

from serve_app.adapters.files import ABOUT, CONFIG, WEIGHTS
from serve_app.errors import InvalidAdapter, needs_extra

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(source: str) -> bool:
    """Whether a source reads as OWNER/NAME, and is no folder here."""
    return _ID.fullmatch(source) is not None and not Path(source).is_dir()


def download(source: str, *, revision: str | None = None, max_bytes: int) -> Path:
    """The folder of the hub's cache with the adapter's files. `max_bytes`: of the weights.

    Raises InvalidAdapter, saying what to do, if the repository has no safetensors, is too large or cannot be reached.
    """
    with needs_extra("adapters from the hub need huggingface_hub", "transformers"):
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    try:
        info = huggingface_hub.HfApi().model_info(source, revision=revision, files_metadata=True)
        _check_listing(source, info, max_bytes)
        folder = huggingface_hub.snapshot_download(
            source, revision=revision, allow_patterns=[CONFIG, WEIGHTS, ABOUT], ignore_patterns=["*/*"]
        )
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, OSError, HfHubHTTPError) as e:
        if isinstance(e, HfHubHTTPError) and e.response is not None and e.response.status_code in (401, 403, 404):
            raise InvalidAdapter(
                f"{source}: the hub has no such repository that is open to this machine; check the id, or set HF_TOKEN"
            ) from e
        raise InvalidAdapter(
            f"{source}: cannot be downloaded ({type(e).__name__}); without a network, copy the adapter's folder to "
            "this machine and add that"
        ) from e
    return Path(folder)


def _check_listing(source: str, info: Any, max_bytes: int) -> None:
    """Raises InvalidAdapter for a repository that has no safetensors, or too large ones."""
    sizes = {each.rfilename: each.size or 0 for each in info.siblings or ()}
    if WEIGHTS not in sizes:
        raise InvalidAdapter(
            f"{source}: has no {WEIGHTS}; other formats may run code when they are read, and are refused"
        )
    if sizes[WEIGHTS] > max_bytes:
        raise InvalidAdapter(
            f"{source}: {WEIGHTS} has {sizes[WEIGHTS] / 2**20:.1f} MiB, above adapters.max_mib; raise it, or choose an "
            "adapter of a lower rank"
        )
