"""The recognizers of a guard, from its config, and the chain with its policy file."""

import re
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from serve_app.config.guards import GuardConfig, GuardsConfig, PatternConfig
from serve_app.config.placement import PersonalDataConfig
from serve_app.errors import ConfigError, reading
from serve_app.guards.injection import injection_recognizers
from serve_app.guards.personal.patterns import personal_recognizers
from serve_app.guards.spans import Recognizer

SECRETS: Final = ("api_key", "private_key", "password")
"""Categories of personal data that are secrets."""
_CHAIN: Final[TypeAdapter[tuple[GuardConfig, ...]]] = TypeAdapter(tuple[GuardConfig, ...])


def chain_of(config: GuardsConfig) -> tuple[GuardConfig, ...]:
    """The chain with that of the policy file. Raises ConfigError with file, key and fix."""
    if config.policy is None:
        return config.chain
    path = Path(config.policy)
    with reading(path, "name a YAML file with a list of guards in guards.policy", yaml.YAMLError):
        given: Any = yaml.safe_load(path.read_text("utf-8"))
    try:
        found = _CHAIN.validate_python(given)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{path}: {where}: {first['msg']}: correct it, see the keys of guards.chain") from None
    names = [guard.name for guard in (*config.chain, *found)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{path}: two guards are named {twice!r}, here or in guards.chain: rename one")
    return (*config.chain, *found)


def recognizers_of(guard: GuardConfig, config: GuardsConfig, personal: PersonalDataConfig) -> list[Recognizer]:
    """The patterns of a guard, none for a classifier. Raises ConfigError for one that is invalid or unbounded."""
    if guard.kind == "classifier":
        return []
    if guard.kind == "patterns":
        found = [_made(guard, each) for each in guard.patterns if _speaks(each, config.locales)]
    elif guard.kind == "injection":
        found = injection_recognizers()
    else:
        named = SECRETS if guard.kind == "secrets" else personal.categories
        found = personal_recognizers(personal.regions, named)
        if guard.kind == "personal_data":
            found = [r for r in found if r.category not in SECRETS]
    known = {recognizer.category for recognizer in found}
    if guard.categories is not None and (unknown := sorted(set(guard.categories) - known)):
        raise ConfigError(
            f"guards.chain: {guard.name}: no category {unknown[0]!r}; there are {', '.join(sorted(known))}: correct it"
        )
    return [r.named(guard.name) for r in found if guard.categories is None or r.category in guard.categories]


def _speaks(pattern: PatternConfig, locales: tuple[str, ...]) -> bool:
    return pattern.locales is None or bool(set(pattern.locales) & set(locales))


def _made(guard: GuardConfig, given: PatternConfig) -> Recognizer:
    """The recognizer of words or of a pattern."""
    if given.words:
        words = sorted(given.words, key=len, reverse=True)
        inner = "|".join(r"\s{1,3}".join(map(re.escape, word.split())) for word in words)
        text = rf"(?<!\w)(?:{inner})(?!\w)"
    else:
        text = given.pattern or ""
    try:
        return Recognizer(given.category, re.compile(text, re.IGNORECASE))
    except re.error as e:
        problem = f"is no regular expression ({e})"
    except ValueError:
        problem = "matches texts of any length, which a stream cannot hold back: write {0,40} instead of * or +"
    raise ConfigError(f"guards.chain: {guard.name}: the pattern of {given.category} {problem}")
