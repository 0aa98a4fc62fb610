"""The pattern tier: what it finds, what it leaves alone, and that a stream finds the same."""

import random

import pytest

from serve_app.guards.personal.patterns import personal_recognizers
from serve_app.guards.spans import Recognizer, SpanStream, find_all, merged

EVERYWHERE = ("US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "SE", "BR", "IN", "CA", "AU", "CH")
ALL = personal_recognizers(EVERYWHERE)
USUAL = personal_recognizers(("US", "GB", "DE", "FR"))

FOUND = [
    ("reach jane.doe+news@mail.example.co.uk today", "email", "jane.doe+news@mail.example.co.uk"),
    ("mail müller@straße.de", "email", "müller@straße.de"),
    ("call +44 20 7946 0958.", "phone", "+44 20 7946 0958"),
    ("ring 415-555-2671 please", "phone", "415-555-2671"),
    ("my phone is 4155552671", "phone", "4155552671"),
    ("Tel. 030 901820", "phone", "030 901820"),
    ("card 4111 1111 1111 1111 exp 12/27", "card", "4111 1111 1111 1111"),
    ("amex 378282246310005", "card", "378282246310005"),
    ("pay to DE89 3704 0044 0532 0130 00 now", "iban", "DE89 3704 0044 0532 0130 00"),
    ("GB29NWBK60161331926819", "iban", "GB29NWBK60161331926819"),
    ("from 203.0.113.77, yes", "ip_address", "203.0.113.77"),
    ("host 8.8.8.8 answered", "ip_address", "8.8.8.8"),
    ("at 2001:4860:4860::8888", "ip_address", "2001:4860:4860::8888"),
    ("nic 00:1B:44:11:3A:B7", "mac_address", "00:1B:44:11:3A:B7"),
    ("ssn 536-90-4399", "national_id", "536-90-4399"),
    ("my social security number is 536904399", "national_id", "536904399"),
    ("NINO AB 12 34 56 C", "national_id", "AB 12 34 56 C"),
    ("born on 12 March 1984 in Rome", "date_of_birth", "12 March 1984"),
    ("DOB: 03/12/1984", "date_of_birth", "03/12/1984"),
    ("geboren: 12.03.1984", "date_of_birth", "12.03.1984"),
    ("token ghp_" + "aB3" * 12, "api_key", "ghp_" + "aB3" * 12),
    ("aws AKIAIOSFODNN7EXAMPLE", "api_key", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key = 'q8Zk2LmN0pRs7TuV9wXy'", "api_key", "q8Zk2LmN0pRs7TuV9wXy"),
    ("the password is hunter2!", "password", "hunter2!"),
    ("pwd: S3cure-Pass", "password", "S3cure-Pass"),
]
CLEAN = [
    "what is 40 + 2?",
    "sort 52 17 88 6 34",
    "version 1.2.3.4 of the firmware",
    "on 2024-10-12 13:45 we met",
    "ISBN 978-3-16-148410-0",
    "order 123456789012 was shipped",
    "the card 4111 1111 1111 1112 is wrong",
    "IBAN DE89 3704 0044 0532 0130 01 has a typo",
    "follow @jane on the site",
    "127.0.0.1:8000 and 0.0.0.0",
    "the password is required and must be long",
    "a secret token of appreciation",
    "she was born in a small town",
    "pi is 3.14159265358979",
    "he scored 536-90 in total",
    "your api key: YOUR_API_KEY_GOES_HERE",
    "between 1990 and 2020, 1,234,567 people",
    "set 12:30:45 as the time",
]


@pytest.mark.parametrize(("text", "category", "exact"), FOUND)
def test_what_is_found(text: str, category: str, exact: str) -> None:
    spans = [span for span in find_all(USUAL, text) if span.category == category]
    assert [text[s.start : s.end] for s in spans] == [exact]


@pytest.mark.parametrize("text", CLEAN)
def test_what_is_left_alone(text: str) -> None:
    assert [(text[s.start : s.end], s.category) for s in find_all(USUAL, text)] == []


def test_a_private_key_is_found_to_its_end() -> None:
    key = "-" * 5 + "BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nAAAA\n-----END OPENSSH PRIVATE KEY-----"
    (span,) = find_all(USUAL, f"here {key} done")
    assert (span.start, span.end, span.category) == (5, 5 + len(key), "private_key")


@pytest.mark.parametrize(
    ("region", "text"),
    [
        ("ES", "DNI 54362315K"),
        ("IT", "RSSMRA80A01H501U"),
        ("NL", "bsn 111222333"),
        ("PL", "PESEL 44051401359"),
        ("BR", "390.533.447-05"),
        ("CH", "756.9217.0769.85"),
        ("FR", "2 95 10 99 126 111 93"),
        ("DE", "Steuer-ID 36 574 261 809"),
    ],
)
def test_numbers_of_a_region_count_only_there(region: str, text: str) -> None:
    kinds = {"national_id", "tax_id"}
    assert {s.category for s in find_all(personal_recognizers((region,)), text)} & kinds
    assert not {s.category for s in find_all(personal_recognizers(("SE",)), text)} & kinds


@pytest.mark.parametrize("recognizer", ALL, ids=lambda r: f"{r.category}-{r.width}")
def test_an_alphabet_holds_every_character_that_its_pattern_can_match(recognizer: Recognizer) -> None:
    """Else part of a match would leave a stream before the whole is there."""
    if not recognizer.alphabet:
        return
    import re

    inside = re.compile(f"[{recognizer.alphabet}]*")
    texts = [text for text, *_ in FOUND] + CLEAN
    for match in (m for text in texts for m in recognizer.pattern.finditer(text)):
        assert inside.fullmatch(match.group()), match.group()


def test_a_stream_finds_the_same_wherever_it_is_cut() -> None:
    text, rng = " ".join(text for text, *_ in FOUND) + " " + " ".join(CLEAN), random.Random(1)
    recognizers = [r for r in ALL if r.tail is None]
    whole = merged(find_all(recognizers, text))
    for _ in range(20):
        stream, found, at = SpanStream(recognizers), [], 0
        while at < len(text):
            piece = text[at : at + rng.randint(1, 30)]
            at += len(piece)
            found += stream.feed(piece)[0]
        found += stream.feed("", last=True)[0]
        assert found == whole
