"""The tier of Microsoft Presidio: its recognizers of numbers and documents, and spaCy's names where a model is there.

Without an installed spaCy model a blank pipeline cuts the words, so that words around a number still count; names and
places then have no recognizer. Nothing is downloaded: Presidio's recognizers of mail and web addresses, which fetch a
list of domains, are left out, as the pattern tier finds those. Needs the extra `privacy`.
"""

import re
from typing import Any, Final

from serve_app.config.placement import PersonalDataConfig
from serve_app.errors import ConfigError, needs_extra
from serve_app.guards.spans import Span

_SCORE: Final = 0.5
"""Least confidence that counts: below are patterns that any number fits."""
_CATEGORIES: Final = {
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip_address",
    "MAC_ADDRESS": "mac_address",
    "PERSON": "name",
    "LOCATION": "location",
}
_IDENTITY: Final = re.compile(
    r"SSN|ITIN|PASSPORT|LICENSE|LICENCE|NHS|NINO|NRIC|FIN\b|NIF|NIE|FISCAL|IDENTITY|PESEL|AADHAAR|PAN\b|VOTER|RRN|FRN"
    r"|TNIN|PERSONNUMMER|SIN\b|MBI|ID_CARD|ID_NUMBER|NATIONAL_ID|NIN\b|UMID|FUEHRERSCHEIN|SOCIAL_SECURITY|HEALTH_INSURANCE"
)
_TAX: Final = re.compile(r"TAX|TFN|VAT|GSTIN|TIN\b|UTR")
_LEFT_OUT: Final = ("EmailRecognizer", "UrlRecognizer", "PhoneRecognizer", "DateRecognizer", "UuidRecognizer")


class PresidioTier:
    """Presidio's analyzer for one language. Raises DependencyError, or ConfigError without the spaCy model."""

    def __init__(self, config: PersonalDataConfig) -> None:
        with needs_extra("Presidio finds personal data (placement.personal_data.tier: presidio)", "privacy"):
            import spacy
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer.nlp_engine import SpacyNlpEngine
        self._language = config.language
        engine = SpacyNlpEngine(models=[{"lang_code": config.language, "model_name": config.spacy_model or "blank"}])
        try:
            pipeline = spacy.load(config.spacy_model) if config.spacy_model else _blank(spacy, config.language)
        except (OSError, ImportError) as e:
            raise ConfigError(
                f"placement.personal_data.spacy_model: {config.spacy_model or config.language!r} cannot be loaded "
                f"({e}): install that model's package, or leave it out"
            ) from e
        engine.nlp = {config.language: pipeline}  # its own `load` would download
        registry = RecognizerRegistry(supported_languages=[config.language])
        registry.load_predefined_recognizers(languages=[config.language])
        left_out = _LEFT_OUT if config.spacy_model else (*_LEFT_OUT, "SpacyRecognizer")
        registry.recognizers = [r for r in registry.recognizers if str(r.name) not in left_out]
        self._analyzer = AnalyzerEngine(
            registry=registry, nlp_engine=engine, supported_languages=[config.language], log_decision_process=False
        )
        known = {name for recognizer in registry.recognizers for name in recognizer.supported_entities}
        self._kinds = {name: category for name in sorted(known) if (category := _category(name)) is not None}

    def find(self, text: str) -> list[Span]:
        """Spans of a whole text, sorted."""
        found: list[Any] = self._analyzer.analyze(
            text, language=self._language, entities=list(self._kinds), score_threshold=_SCORE
        )
        return sorted(Span(r.start, r.end, self._kinds[r.entity_type]) for r in found)


def _category(entity: str) -> str | None:
    if entity in _CATEGORIES:
        return _CATEGORIES[entity]
    if _TAX.search(entity):
        return "tax_id"
    return "national_id" if _IDENTITY.search(entity) else None


def _blank(spacy: Any, language: str) -> Any:
    """A pipeline that cuts words, each its own lemma: Presidio reads the lemmas around a number."""

    def lower(doc: Any) -> Any:
        for token in doc:
            token.lemma_ = token.lower_
        return doc

    pipeline = spacy.blank(language)
    if not spacy.Language.has_factory("jethro_lower"):
        spacy.Language.component("jethro_lower", func=lower)
    pipeline.add_pipe("jethro_lower")
    return pipeline
