"""The recorded answers that the commands of `jethro cascade` read: with the signals, and the prior, that a fit uses."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.cli.options import listed, say
from serve_app.errors import ConfigError

if TYPE_CHECKING:
    from serve_app.cascade.base import Signal
    from serve_app.cascade.fitting.matching import ScoreAll
    from serve_app.data.recorded import Recorded


def recorded_answers(path: Path, split: str | None) -> "Recorded":
    """The collected answers, or a split of them."""
    from serve_app.data.recorded import read

    found = read(path)
    return found if split is None else found.split(split)


def with_signals(
    text: str | None,
    recorded: "Recorded",
    prior_of: str | None,
    confidence_is: str | None,
    registry: Path,
) -> "tuple[Recorded, tuple[Signal, ...]]":
    """Signals by name, and the answers with the prior that they read.

    `logprobs` are all log-probability signals; `recorded` is the file's confidence, under the name of
    `confidence_is` if that is given. Without `text`: logprobs, and the prior where it is recorded. Raises ConfigError
    for an unknown name, or none.
    """
    from serve_app.cascade.fitting.confidence import LOGPROB_SIGNALS
    from serve_app.cascade.signals.specs import UNTRAINED
    from serve_app.cascade.signals.tokens import Prior

    if text is None:
        has_prior = prior_of is not None or any(row[0].prior is not None for row in recorded.evidence)
        text = "logprobs,prior" if has_prior else "logprobs"
    found: list[Signal] = []
    for name in listed(text):
        if name == "logprobs":
            found += LOGPROB_SIGNALS
        elif name == Prior.name:
            recorded = _with_prior(recorded, prior_of, registry)
            found.append(Prior(recorded.prior_of))
        elif name in UNTRAINED and not (name == "recorded" and confidence_is is not None):
            found.append(UNTRAINED[name]())
        elif name != "recorded":
            known = ", ".join(UNTRAINED)
            raise ConfigError(f"signal {name!r} is not known: give logprobs, {known}, or --scorer minilm in `fit`")
    if confidence_is is not None and confidence_is not in (signal.name for signal in found):
        answers_own = [name for name in UNTRAINED if name not in (Prior.name, "recorded")]
        if confidence_is not in answers_own or "recorded" not in listed(text):
            raise ConfigError(
                f"--confidence-is {confidence_is}: it is none of --signals {text}; name it there too, or write "
                f"--signals recorded, with one of {', '.join(answers_own)}"
            )
        found.append(UNTRAINED[confidence_is]())
    if not found:
        raise ConfigError("--signals: name at least one")
    return recorded, tuple(found)


def _with_prior(recorded: "Recorded", prior_of: str | None, registry: Path) -> "Recorded":
    """The answers with the score of the router `prior_of`, or else with the recorded one. Raises ConfigError."""
    if prior_of is None:
        if not recorded.prior_of:
            raise ConfigError(
                "signal prior: the answers do not say which router scored them, and a chain is served with the score "
                "of the router that it was fitted on: name it with --prior-of NAME, which scores the queries again"
            )
        return recorded
    from serve_app.routing.reference import open_reference, pinned
    from serve_app.routing.registry import Registry

    folder = Registry(registry)
    found = open_reference(folder, prior_of)
    reference = pinned(folder, prior_of, found)
    if reference == recorded.prior_of:
        return recorded
    return recorded.with_prior(found.router.score([row[0].query for row in recorded.evidence]), reference)


def _scores(registry: Path) -> "ScoreAll":
    """Scores of queries by the routers of a registry, the package, or a folder."""
    from serve_app.routing.reference import open_reference
    from serve_app.routing.registry import Registry

    return lambda reference, queries: open_reference(Registry(registry), reference).router.score(queries)


def matching_answers(
    path: Path,
    answers: "tuple[Path, Recorded]",
    about: Mapping[str, Any],
    models: Mapping[str, str],
    signals: "list[Signal]",
    registry: Path,
    *,
    force: bool,
) -> "Recorded":
    """The answers, checked against what the artefact at `path` was fitted with, and with the prior of its router."""
    from serve_app.cascade.fitting.matching import check_source, with_prior_of_fit

    data, recorded = answers
    check_source(recorded, about, models, str(path))
    found = with_prior_of_fit(recorded, signals, str(path), _scores(registry), say)
    if about.get("digest") in (recorded.digest(), found.digest()) and not force:
        raise ConfigError(f"{data}: {path.parent} was fitted on these answers; give others, or --force")
    return found
