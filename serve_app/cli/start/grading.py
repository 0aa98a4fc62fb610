"""How commands grade collected answers: by a metric of their own, or by a judge, one of the config's pools."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from serve_app.cli.collect import opened_pools
from serve_app.cli.options import say
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.config import Config
    from serve_app.data.dataset import Dataset

_NUMBER: Final = re.compile(r"\s*[-+]?[$€£¥]?[\d,]*\.?\d+\s*%?\s*")
_LETTER: Final = re.compile(r"\s*\(?[A-D]\)?\.?\s*")


def graded(
    dataset: "Dataset",
    metric: str,
    options: Mapping[str, Any],
    config: "Config | None",
    judge: str | None,
    url: str | None = None,
) -> "Dataset":
    """The answers with their quality. `judge`: the config's pool that judges, at `url` or as the config has it.

    Raises ConfigError for a judge that is missing, and what `Metric.score` raises.
    """
    from serve_app.grading import JUDGES, get_metric

    async def scored() -> "Dataset":
        if metric not in JUDGES:
            return await get_metric(metric, **options).score(dataset, say)
        if judge is None or config is None:
            raise ConfigError(f"metric {metric} needs --judge POOL, one of the config's pools")
        async with opened_pools(config, url, [judge]) as pools:
            return await get_metric(metric, pool=pools[judge], **options).score(dataset, say)

    return asyncio.run(scored())


def usual_metric(references: Sequence[str | None]) -> tuple[str, str]:
    """The metric that right answers of this kind call for, and why; a judge where some are missing or are texts."""
    known = [reference for reference in references if reference is not None]
    if len(known) < len(references) or not known:
        missing = len(references) - len(known)
        return "judge", f"{missing:,} of {len(references):,} prompts have no right answer (`reference`)"
    if all(_NUMBER.fullmatch(reference) for reference in known):
        return "number", "every right answer is a number"
    if all(_LETTER.fullmatch(reference) for reference in known):
        return "choice", "every right answer is a letter"
    return "judge", "right answers are texts, which models word in many ways"
