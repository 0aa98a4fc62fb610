"""Whether recorded answers can measure a fitted cascade: same models, metric and prior as those it was fitted with.

What does not match is refused, except the prior: a router's score costs no call, so the answers get that of the router
that the cascade was fitted with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve_app.arrays import Floats
from serve_app.cascade.base import Signal
from serve_app.cascade.signals.combined import joint_needs
from serve_app.data.recorded import Recorded
from serve_app.errors import ConfigError
from serve_app.routing.reference import split_reference
from serve_app.types import Query

ScoreAll = Callable[[str, Sequence[Query]], Floats]
"""The scores [n] of queries by the router of a reference. Raises ConfigError if there is none."""


def check_source(recorded: Recorded, about: Mapping[str, Any], models: Mapping[str, str], where: str) -> None:
    """Raises ConfigError for answers graded by another metric, or of other models, than those of the fit.

    `about`: the data of the artefact at `where`; `models`: its model by pool, "" where it is unknown.
    """
    metric = about.get("metric")
    if metric and recorded.metric and metric != recorded.metric:
        raise ConfigError(
            f"{where}: data.metric is {metric!r}, but these answers were graded by {recorded.metric!r}: their figures "
            f"cannot be compared; grade them with `jethro data score FILE --metric {metric}`"
        )
    served = dict(zip(recorded.models, recorded.served, strict=False))
    for pool, model in models.items():
        if model and served.get(pool, model) != model:
            raise ConfigError(
                f"{where}: it was fitted on answers of {model!r} as pool {pool}, these are of {served[pool]!r}: "
                "collect answers of the same model, or fit again on these"
            )


def with_prior_of_fit(
    recorded: Recorded, signals: Sequence[Signal], where: str, score: ScoreAll, report: Callable[[str], None]
) -> Recorded:
    """The answers with the prior that the signals were fitted on; unchanged where they have it or need none."""
    reference = joint_needs(signals).prior if signals else None
    if reference is None or reference == recorded.prior_of:
        return recorded
    source, version = split_reference(reference)
    there = split_reference(recorded.prior_of) if recorded.prior_of else ("", None)
    if version is not None and there[1] == version:
        return recorded
    if version is None and (not recorded.prior_of or there[0] == source):
        report(f"note: {where} does not say which version of router {source} its prior is; the recorded one is used")
        return recorded
    try:
        scores = score(reference, [row[0].query for row in recorded.evidence])
    except ConfigError as e:
        raise ConfigError(f"{where}: it reads the score of router {reference}: {e}") from e
    have = f"that of {recorded.prior_of}" if recorded.prior_of else "of a router that the file does not name"
    report(f"the recorded prior is {have}: scored again by {reference}, as the fit was")
    return recorded.with_prior(scores, reference)
