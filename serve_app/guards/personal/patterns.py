"""The pattern tier: what personal data and secrets look like, confirmed by checksums and number plans.

Candidates are found by patterns; python-stdnum and phonenumbers decide. A number that could be anything (nine digits)
counts only with a word for it right before. Well under a millisecond for a usual request.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from typing import Final

import phonenumbers
from stdnum import iban as iban_number
from stdnum import luhn
from stdnum.util import get_cc_module

from serve_app.guards.spans import CONTEXT, Check, Recognizer

_NUMBER: Final = re.compile(r"\d(?:[ .()\-/+]{0,3}[\dA-Z]){5}", re.ASCII)
"""Six digits or capitals, with little between them: no number that is looked for has fewer."""
# Each begins with the rarest of its characters, which a search finds fast.
_DOTTED: Final = re.compile(r"\.(?<=\d\.)\d{1,3}\.\d")
_HEX_PAIRS: Final = re.compile(r"[:-](?<=[\da-fA-F]{2}[:-])[\da-fA-F]{2}[:-][\da-fA-F]{2}[:-]")
_COLONS: Final = re.compile(r":[\da-fA-F]{0,4}:")
_CARD_PREFIX: Final = re.compile(
    r"4|5[0-8]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35(?:2[89]|[3-8])|6(?:011|4[4-9]|5|2|[0379])"
)
_CARD_LENGTHS: Final = {"3": (14, 15, 16), "4": (13, 16, 19), "2": (16,)}


def _card(text: str, start: int, end: int) -> bool:
    number = re.sub(r"[ -]", "", text[start:end])
    if len(number) not in _CARD_LENGTHS.get(number[0], (16, 17, 18, 19)) or len(set(number)) < 2:
        return False
    return _CARD_PREFIX.match(number) is not None and luhn.is_valid(number)


def _iban(text: str, start: int, end: int) -> bool:
    return bool(iban_number.is_valid(text[start:end]))


def _ip(text: str, start: int, end: int) -> bool:
    """An address that is some machine's. Four small numbers after `version` are a version."""
    try:
        address = ipaddress.ip_address(text[start:end])
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_reserved:
        return False
    return _VERSION.search(text[max(0, start - 24) : start]) is None


_VERSION: Final = re.compile(
    r"(?:\bv|\bver\.?|version|release|firmware|build|section|chapter|§)\s*[:=]?\s*\Z", re.IGNORECASE
)


@cache
def _phone_is_valid(number: str, region: str | None) -> bool:
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(parsed))


_PHONE_WORD: Final = re.compile(
    r"(?:phone|call|tel|mobile|cell|fax|whatsapp|sms|text|ring|dial|contact|reach|number is|handy|telefon|portable"
    r"|móvil)"
    r"[^\d\n]{0,24}\Z",
    re.IGNORECASE,
)
_DATE: Final = re.compile(r"(?:\d{4}[-/. ]\d{1,2}[-/. ]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})(?:[ T]|\Z)")
_NO_PHONE: Final = re.compile(
    r"(?:isbn|issn|order|invoice|tracking|ticket|serial|account|case|part|item|sku|rfc|no\.|nr\.|#|id|iban|pi)"
    r"\W{0,3}(?:number|no\.?|is|nr\.?)?\W{0,3}\Z",
    re.IGNORECASE,
)


def _phone(regions: Sequence[str], text: str, start: int, end: int) -> bool:
    """A number of a number plan. Without `+` it needs a shape or a word that makes it more than digits."""
    number = text[start:end]
    if number.startswith("+") or number.startswith("00"):
        digits = number if number.startswith("+") else f"+{number[2:]}"
        return phonenumbers_valid(digits, None)
    if _DATE.match(number):
        return False
    before = text[max(0, start - CONTEXT) : start]
    named = _PHONE_WORD.search(before) is not None
    if not named:
        if _NO_PHONE.search(before) is not None:
            return False
        digits = re.sub(r"\D", "", number)
        grouped = re.search(r"\d[ .\-/)]\s?\d", number) is not None
        if not grouped or not (
            digits.startswith("0") or "(" in number or re.fullmatch(r"\d{3}[-. ]\d{3}[-. ]\d{4}", number)
        ):
            return False
    return any(phonenumbers_valid(number, region) for region in regions)


def phonenumbers_valid(number: str, region: str | None) -> bool:
    """Whether a number is one of a region's plan, or with `+` of any; a bounded memory of no caller's numbers."""
    found = _phone_is_valid.__wrapped__(number, region)
    return bool(found)


_VALUE: Final = re.compile(r"[A-Za-z0-9/+_\-.=]{16,200}")


def _secret(text: str, start: int, end: int) -> bool:
    """A value that a machine made: long, mixed, and no word of a language or a placeholder."""
    value = _VALUE.findall(text[start:end])[-1]
    if (
        len(value) < 16
        or len(set(value)) < 8
        or re.search(r"(?i)example|placeholder|your[_-]|xxxx|\*\*\*|<|\$\{", value)
    ):
        return False
    kinds = sum(bool(re.search(kind, value)) for kind in (r"[a-z]", r"[A-Z]", r"\d"))
    return kinds >= 2 and _entropy(value) > 3.0


def _entropy(value: str) -> float:
    """Bits a character."""
    counts = Counter(value)
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())


def _password(text: str, start: int, end: int) -> bool:
    """The value after `password is` or `password:` that no sentence would hold there."""
    value = re.split(r"[:=]\s*|\bis\s+|\bist\s+|\best\s+", text[start:end])[-1].strip("\"'`.,;")
    mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    marked = re.search(r"[!@#$%^&*?]", value[:-1]) and re.search(r"[A-Za-z]", value)
    return len(value) >= 6 and bool(mixed or marked) and "://" not in value


def _stdnum(country: str, name: str, words: str, text: str, start: int, end: int) -> bool:
    """Valid by the country's own rule; with `words`, one of them must stand before it."""
    module = get_cc_module(country, name)
    if module is None or not module.is_valid(text[start:end]):
        return False
    return (
        not words
        or re.search(rf"(?i)(?:{words})\W{{0,3}}(?:\w+\W{{1,3}}){{0,3}}\Z", text[max(0, start - 48) : start])
        is not None
    )


def _words_before(words: str, text: str, start: int, end: int) -> bool:
    return (
        re.search(rf"(?i)(?:{words})\W{{0,3}}(?:\w+\W{{1,3}}){{0,3}}\Z", text[max(0, start - 48) : start]) is not None
    )


_Row = tuple[str, str, str, str, str]
_NUMBERS: Final[dict[str, tuple[_Row, ...]]] = {
    "US": (
        ("national_id", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", r"\d\-", "ssn", ""),
        ("national_id", r"(?<!\d)\d{3} ?\d{2} ?\d{4}(?!\d)", r"\d ", "ssn", "ssn|social security"),
        ("tax_id", r"(?<![\d-])\d{2}-\d{7}(?![\d-])", r"\d\-", "ein", r"\bein\b|employer identification|tax id"),
        ("tax_id", r"(?<![\d-])9\d{2}-\d{2}-\d{4}(?![\d-])", r"\d\-", "itin", ""),
    ),
    "GB": (
        ("national_id", r"(?<!\w)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D](?!\w)", r"A-Z\d ", "", ""),
        ("national_id", r"(?<!\d)\d{3} ?\d{3} ?\d{4}(?!\d)", r"\d ", "nhs", "nhs"),
        ("tax_id", r"(?<!\d)\d{10}(?!\d)", r"\d", "utr", r"\butr\b|taxpayer"),
    ),
    "DE": (
        ("tax_id", r"(?<!\d)\d{2} ?\d{3} ?\d{3} ?\d{3}(?!\d)", r"\d ", "idnr", "steuer|tax|idnr"),
        ("tax_id", r"(?<!\w)DE ?\d{9}(?!\d)", r"DE\d ", "vat", ""),
    ),
    "FR": (
        ("national_id", r"(?<!\d)[12] ?\d{2} ?\d{2} ?\d[\dAB] ?\d{3} ?\d{3} ?\d{2}(?!\d)", r"\dAB ", "nir", ""),
        ("tax_id", r"(?<!\w)FR ?[A-Z\d]{2} ?\d{9}(?!\d)", r"A-Z\d ", "tva", ""),
    ),
    "ES": (("national_id", r"(?<!\w)(?:\d{8}|[XYZ]\d{7})-?[A-Z](?!\w)", r"A-Z\d\-", "nif", ""),),
    "IT": (("national_id", r"(?<!\w)[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z](?!\w)", r"A-Z\d", "codicefiscale", ""),),
    "NL": (("national_id", r"(?<!\d)\d{9}(?!\d)", r"\d", "bsn", r"\bbsn\b|burgerservice"),),
    "PL": (("national_id", r"(?<!\d)\d{11}(?!\d)", r"\d", "pesel", "pesel"),),
    "SE": (("national_id", r"(?<!\d)(?:\d{2})?\d{6}[-+]\d{4}(?!\d)", r"\d\-+", "personnummer", ""),),
    "BR": (("national_id", r"(?<!\d)\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)", r"\d.\-", "cpf", ""),),
    "IN": (("national_id", r"(?<!\d)\d{4} \d{4} \d{4}(?!\d)", r"\d ", "aadhaar", ""),),
    "CA": (("national_id", r"(?<!\d)\d{3}[- ]\d{3}[- ]\d{3}(?!\d)", r"\d\- ", "sin", r"\bsin\b|social insurance|nas"),),
    "AU": (("tax_id", r"(?<!\d)\d{3} ?\d{3} ?\d{3}(?!\d)", r"\d ", "tfn", r"\btfn\b|tax file"),),
    "CH": (("national_id", r"(?<!\d)756\.\d{4}\.\d{4}\.\d{2}(?!\d)", r"\d.", "ssn", ""),),
}
"""By region: category, pattern, its alphabet, the module of python-stdnum, and words that must stand before."""

_KEYS: Final = (
    (r"sk-(?:ant-|proj-|live-)?[A-Za-z0-9_\-]{20,200}", ("sk-",)),
    (r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,120}", ("_live_", "_test_")),
    (r"gh[pousr]_[A-Za-z0-9]{36,255}", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    (r"github_pat_[A-Za-z0-9_]{22,255}", ("github_pat_",)),
    (r"glpat-[A-Za-z0-9_\-]{20,64}", ("glpat-",)),
    (r"(?:AKIA|ASIA)[0-9A-Z]{16}", ("akia", "asia")),
    (r"xox[abeoprs]-[A-Za-z0-9\-]{10,250}", ("xox",)),
    (r"AIza[0-9A-Za-z_\-]{35}", ("aiza",)),
    (r"hf_[A-Za-z0-9]{30,40}", ("hf_",)),
    (r"npm_[A-Za-z0-9]{36}", ("npm_",)),
    (r"pypi-[A-Za-z0-9_\-]{50,250}", ("pypi-",)),
    (r"SG\.[A-Za-z0-9_\-]{16,64}\.[A-Za-z0-9_\-]{16,64}", ("sg.",)),
    (r"eyJ[A-Za-z0-9_\-]{8,1000}\.eyJ[A-Za-z0-9_\-]{8,2000}\.[A-Za-z0-9_\-]{8,1000}", ("eyj",)),
)
_NAMED_KEY: Final = (
    r"(?i:(?:api|access|secret|auth|client|private)[ _\-]?(?:key|token|secret)|token|secret|bearer)"
    r"[\"']?(?: is)?\s{0,2}[:= ]\s{0,2}[\"']?(?P<span>[A-Za-z0-9/+_\-.=]{16,200})"
)


_LED: Final = re.compile(
    r"\(\?<!(?P<not>\[(?:[^\]\\]|\\.)+\]|\\\w)\)(?P<first>\[[^\]]+\]|\\d|\w)(?P<rest>.*)", re.DOTALL
)
_COUNT: Final = re.compile(r"\{(\d+)(?:,(\d+))?\}")


def _led(pattern: str) -> str:
    """The same pattern with its first character before the look at what precedes that: `(?<!X)A{3}` as `A(?<!X.)A{2}`.

    A search then skips to characters that can come first, a quarter of the time. Others are returned as they are.
    """
    found = _LED.fullmatch(pattern)
    if found is None:
        return pattern
    first, rest = found["first"], found["rest"]
    if (count := _COUNT.match(rest)) is not None:
        least, most = int(count[1]), count[2]
        left = f"{{{least - 1}}}" if most is None else f"{{{max(0, least - 1)},{int(most) - 1}}}"
        rest = f"{first}{left}{rest[count.end() :]}"
    elif rest[:1] in ("?", "*", "+"):
        return pattern
    return f"{first}(?<!{found['not']}.){rest}"


_BIRTH: Final = ("born", "birth", "dob", "geb", "née ", "né le", "naissance", "nacid")


def personal_recognizers(regions: Sequence[str], categories: Collection[str] | None = None) -> list[Recognizer]:
    """The recognizers of the pattern tier, those of `categories` (None: all), for numbers of these countries."""
    found = [*_everywhere(regions), *_secrets()]
    for region in regions:
        for category, pattern, alphabet, name, words in _NUMBERS.get(region, ()):
            check: Check | None = partial(_stdnum, region.lower(), name, words) if name else None
            compiled = re.compile(_led(pattern), re.ASCII)
            found.append(Recognizer(category, compiled, check, gate=_NUMBER, alphabet=alphabet))
    return [r for r in found if categories is None or r.category in categories]


def _everywhere(regions: Sequence[str]) -> list[Recognizer]:
    def made(category: str, pattern: str, check: Check | None, gate: re.Pattern[str] | None, chars: str) -> Recognizer:
        return Recognizer(category, re.compile(_led(pattern)), check, gate=gate, alphabet=chars)

    phone: Callable[[str, int, int], bool] = partial(_phone, tuple(regions))
    email = r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,4}[^\W\d_]{2,24}(?![\w-])"
    card = r"(?<![\d.,-])\d{4}[ -]?(?:\d{4}[ -]?\d{4}[ -]?\d{1,7}|\d{6}[ -]?\d{4,5})(?![\d-])"
    iban = r"(?<![A-Za-z\d])[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,3})?(?![A-Za-z\d])"
    number = r"(?<![\w.,@/+$€£#=-])[+(\d](?:(?<=\d)|(?<=[+(])\d)[\d ().\-/]{5,20}\d(?![\w@%°€$-]|[.,]\d)"
    ip4 = r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)"
    ip6 = r"(?<![\w:.])(?:[\da-fA-F]{0,4}:){2,7}[\da-fA-F]{0,4}(?![\w:])"
    mac = r"(?<![\w:-])(?:[\da-fA-F]{2}[:-]){5}[\da-fA-F]{2}(?![\w:-])"
    born = (
        r"(?i:\bborn|birth ?date|date of birth|\bdob|birthday|geboren|geburtsdatum|née? le|date de naissance|nacid[oa])"
        r"(?i:[ :,]{1,3}(?:is|was|on|in|am|the|el|le|:)){0,3}[ :]{0,3}"
        r"(?P<span>\d{1,4}[./\- ](?:\d{1,2}|[^\W\d_]{3,10})[./\- ,]{1,2}\d{2,4}"
        r"|[^\W\d_]{3,10} \d{1,2}(?:st|nd|rd|th)?,? \d{4})"
    )
    return [
        Recognizer("email", re.compile(email), None, ("@",), alphabet=r"\w.+%@\-"),
        made("card", card, _card, _NUMBER, r"\d \-"),
        made("iban", iban, _iban, _NUMBER, r"A-Z\d "),
        made("phone", number, phone, _NUMBER, r"\d ().\-/+"),
        made("ip_address", ip4, _ip, _DOTTED, r"\d."),
        made("ip_address", ip6, _ip, _COLONS, r"\da-fA-F:"),
        made("mac_address", mac, None, _HEX_PAIRS, r"\da-fA-F:\-"),
        Recognizer("date_of_birth", re.compile(born), None, _BIRTH),
    ]


def _secrets() -> list[Recognizer]:
    found = [
        Recognizer("api_key", re.compile(rf"(?<![\w-]){pattern}(?![\w-])"), None, trigger, alphabet=r"\w\-.")
        for pattern, trigger in _KEYS
    ]
    spoken = (  # not a password, but what one looks like
        r"(?i:\bpass(?:word|wd|code|phrase|wort)?|\bpwd|mot de passe|contraseña)[\"']?"
        r"(?:\s{0,2}[:=]\s{0,2}|(?i: is| ist| est)(?: now)?:? )[\"'`]?(?P<span>[^\s\"'`]{6,64})"
    )
    begin = r"-----BEGIN (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----"
    body = re.compile(
        r"(?:\\n|[A-Za-z0-9+/=\s:,.\-])*?-----END (?:[A-Z]{2,10} ){0,2}PRIVATE KEY(?: BLOCK)?-----|[A-Za-z0-9+/=\s]*"
    )
    return [
        *found,
        Recognizer("api_key", re.compile(_NAMED_KEY), _secret, ("key", "token", "secret", "bearer")),
        Recognizer("password", re.compile(spoken), _password, ("pass", "pwd", "contraseña")),
        Recognizer("private_key", re.compile(begin), None, ("-----begin",), alphabet=r"A-Z \-", tail=body),
    ]
