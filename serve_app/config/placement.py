"""Settings of placement: which pools may see a request, what counts as personal data, and what is redacted."""

from typing import Annotated, Final, Literal

from pydantic import Field, PositiveFloat

from serve_app.config.base import Node
from serve_app.types import Place, Privacy

PERSONAL: Final = (
    *("email", "phone", "card", "iban", "ip_address", "mac_address", "national_id", "tax_id", "date_of_birth"),
    *("api_key", "private_key", "password", "name", "location"),
)
"""Categories of personal data and secrets; `name` and `location` need a model of names."""
Personal = Literal[
    "email",
    "phone",
    "card",
    "iban",
    "ip_address",
    "mac_address",
    "national_id",
    "tax_id",
    "date_of_birth",
    "api_key",
    "private_key",
    "password",
    "name",
    "location",
]


class PersonalDataConfig(Node):
    """How personal data is detected, for placement, redaction and guards alike.

    The tier `patterns` takes well under a millisecond; `presidio` runs after it and costs milliseconds.
    """

    tier: Literal["patterns", "presidio"] = Field(
        "patterns", description="presidio: Microsoft Presidio's recognizers as well; needs the extra privacy."
    )
    categories: tuple[Personal, ...] | None = Field(None, description="What is looked for; null: all.")
    regions: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...], Field(min_length=1)] = Field(
        ("US", "GB", "DE", "FR"),
        description="Countries (ISO 3166) whose phone numbers without a country code and whose identity numbers count.",
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")] = Field(
        "en", description="Of the texts, for Presidio and its spaCy model."
    )
    spacy_model: str | None = Field(
        None, description="An installed spaCy model that finds names and places for Presidio; null: no such model."
    )
    names_pool: str | None = Field(
        None, description="A pool of place local whose model lists names and places; null: they are not found."
    )
    names_timeout_s: PositiveFloat = Field(5.0, description="Without its answer in this time the request is refused.")


class RuleConfig(Node):
    """A restriction for the requests that match all that is given here; it never widens what a class may reach."""

    tenants: tuple[str, ...] | None = Field(None, description="Names of server.keys; null: every caller.")
    classes: tuple[Privacy, ...] | None = Field(None, description="Privacy classes in force; null: all.")
    detected: tuple[Personal, ...] | None = Field(
        None, description="At least one of these was found in the request; null: whatever it holds."
    )
    tasks: tuple[str, ...] | None = Field(
        None, description="By x-jethro-task, or as orchestration recognized it; null: any, or none."
    )
    places: tuple[Place, ...] = Field((), description="Pools of these places may be reached.")
    pools: tuple[str, ...] = Field((), description="So may these pools. Both empty: no pool at all.")


class RedactionConfig(Node):
    """Personal data is replaced by placeholders before a pool sees it, and put back into the answer."""

    places: tuple[Place, ...] = Field((), description="Pools of these places get redacted text; empty: none.")
    categories: tuple[Personal, ...] | None = Field(None, description="What is replaced; null: all that is detected.")
    instruct: bool = Field(True, description="Tell the model in a system message to keep placeholders as they are.")
    images: Literal["refuse", "pass"] = Field(
        "refuse", description="Images, in which nothing can be replaced: those pools get none (refuse), or get them."
    )


class PlacementConfig(Node):
    """Which pools may see a request. The strictest of header, key, default and detection is its class.

    `local` reaches pools of place local and leaves no content behind, `private` also those of place private, `any` all.
    """

    default: Privacy = Field("any", description="Class of requests whose key has none.")
    detected: Privacy | None = Field(
        None, description="Class of requests in which personal data is detected; null: it is not looked for."
    )
    may_loosen: bool = Field(
        False, description="x-jethro-privacy may loosen what the default, the key or the detection says."
    )
    images: Privacy | None = Field(
        None,
        description="Class of requests with an image, which cannot be searched for personal data; null: where that is "
        "looked for, an image counts as if all of it had been found.",
    )
    rules: tuple[RuleConfig, ...] = Field((), description="Restrictions; all that match hold together.")
    personal_data: PersonalDataConfig = PersonalDataConfig()
    redaction: RedactionConfig = RedactionConfig()

    @property
    def detects(self) -> bool:
        """Whether a request's class or reach depends on its text."""
        return self.detected not in (None, "any") or any(rule.detected is not None for rule in self.rules)
