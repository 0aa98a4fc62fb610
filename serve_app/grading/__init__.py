"""Metrics, which grade each sampled answer of a Dataset.

    metric = get_metric("exact")
    scored = await metric.score(dataset, report=print)

Each is a class in a module of its own, imported when it is requested: some need an extra, none is needed to serve.
"""

import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from serve_app.errors import ConfigError
from serve_app.grading.base import Metric, Range, Report, silent

METRICS = {
    "exact": "exact:ExactMatch",
    "number": "exact:LastNumber",
    "choice": "exact:Choice",
    "lab": "exact:LabGrader",
    "rouge_l": "rouge:RougeL",
    "token_f1": "rouge:TokenF1",
    "bartscore": "bartscore:BartScore",
    "judge": "judge:Judge",
    "judge_pairwise": "judge:PairwiseJudge",
}
"""Name of a metric to its module and class.

Options by keyword: `exact` normalise; `choice` letters; `rouge_l` and `token_f1` tokens; `bartscore` model (a folder),
direction, batch_size, max_tokens, device; `judge` and `judge_pairwise` pool (a Pool, needed) and concurrency.
"""

JUDGES = frozenset({"judge", "judge_pairwise"})
"""Metrics that call a model; they need no reference, and look at one where there is one."""

__all__ = ["JUDGES", "METRICS", "Metric", "Range", "Report", "get_metric", "silent", "usual_metric"]


def get_metric(name: str, **options: Any) -> Metric:
    """The metric of that name.

    Raises ConfigError for an unknown name or option, DependencyError for a missing extra.
    """
    if name not in METRICS:
        raise ConfigError(f"metric {name!r} is unknown: it must be one of {', '.join(METRICS)}")
    module, _, cls = METRICS[name].partition(":")
    made = getattr(import_module(f"{__name__}.{module}"), cls)
    try:
        metric: Metric = made(**options)
    except TypeError as e:
        raise ConfigError(f"metric {name!r}: {e}; for its options see {__name__}.METRICS") from e
    return metric


_NUMBER: Final = re.compile(r"\s*[-+]?[$€£¥]?[\d,]*\.?\d+\s*%?\s*")
_LETTER: Final = re.compile(r"\s*\(?[A-D]\)?\.?\s*")


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
