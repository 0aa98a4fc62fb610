"""Heuristics of prompt injection: text that speaks to the model instead of being worked on.

Categories: `override` (ignore your instructions), `persona` (an unrestricted role), `leak` (the hidden prompt),
`delimiter` (markup of chat templates), `address` (content that addresses the model or hides from the user), `channel`
(data to an address outside), `hidden` (invisible characters). English first; the commonest phrases in German,
French and Spanish. Every pattern is bounded.
"""

import re
import unicodedata
from typing import Final

from serve_app.guards.spans import Recognizer

HIDDEN: Final = "hidden"
_GAP: Final = r"\W{1,3}(?:[\w'’-]{1,20}\W{1,3}){0,4}?"
_SHORT: Final = r"\W{1,3}(?:[\w'’-]{1,20}\W{1,3}){0,2}?"
_RULES: Final = (
    r"(?:instructions?|prompts?|rules?|guidelines?|directives?|constraints|restrictions|training|programming)"
)
_MODEL: Final = r"(?:AIs?|LLMs?|language models?|(?:AI |virtual |helpful )?assistants?|chat ?bots?|GPT|agents?|model)"

_PATTERNS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (
        "override",
        rf"\b(?:ignore|disregard|forget|override|bypass|overrule|stop following|do not follow|don't follow)"
        rf"{_GAP}(?:previous|prior|above|earlier|preceding|before|all|any|your|system|original|initial|existing|these)"
        rf"{_SHORT}{_RULES}\b",
        ("ignore", "disregard", "forget", "overr", "bypass", "follow"),
    ),
    (
        "override",
        r"\b(?:ignore|disregard|forget) (?:everything|all|anything)(?: that was| that is)? "
        r"(?:above|before|you (?:were|have been) given|you know|written so far|said so far|previously said)\b",
        ("ignore", "disregard", "forget"),
    ),
    (
        "override",
        rf"\b(?:your|the) (?:new|real|actual|true|updated) (?:{_RULES}|task|goal|objective|mission) "
        r"(?:is|are|now|follows?|:)|\bnew (?:system )?instructions? ?:|\binstead of (?:summari[sz]ing"
        r"|translating|rewriting)\b",
        ("new ", "real ", "actual ", "true ", "updated ", "instead of"),
    ),
    (
        "override",
        r"\b(?:ignorier|vergiss|missachte)\w{0,3}\W{1,3}(?:[\w-]{1,20}\W{1,3}){0,4}?(?:anweisung|vorgabe"
        r"|regel|prompt)\w{0,4}"
        r"|\b(?:ignore[zr]?|oublie[zr]?)\W{1,3}(?:[\w'’-]{1,20}\W{1,3}){0,4}?(?:instructions|consignes|règles)"
        r"|\b(?:ignora|olvida)\W{1,3}(?:[\w-]{1,20}\W{1,3}){0,4}?(?:instrucciones|indicaciones|reglas)",
        ("ignorier", "vergiss", "missachte", "ignore", "oublie", "ignora", "olvida"),
    ),
    (
        "persona",
        r"\b(?:you are|you're|act|behave|respond|answer|pretend|roleplay"
        r"|role-play)\W{1,3}(?:[\w'’-]{1,20}\W{1,3}){0,6}?"
        r"(?:DAN\b|unrestricted|unfiltered|uncensored|jailbroken|amoral|without (?:any )?(?:rules"
        r"|restrictions|filters|limits"
        r"|ethics|safety)|no (?:rules|restrictions|filters|limits|ethical)|free of (?:all )?(?:rules|restrictions))",
        ("you are", "you're", "act", "behave", "respond", "answer", "pretend", "role"),
    ),
    (
        "persona",
        r"\b(?:developer|debug|god|admin|jailbreak|sudo|maintenance) mode (?:is )?(?:now )?(?:enabled"
        r"|activated|on|engaged)\b"
        r"|\bdo anything now\b|\b(?:enter|enable|activate|switch to) (?:developer|debug|god|jailbreak|sudo) mode\b",
        ("mode", "do anything"),
    ),
    (
        "leak",
        r"\b(?:reveal|show|print|repeat|output|display|tell|give|leak|expose|recite|disclose|dump|write out|copy|send)"
        rf"{_GAP}(?:system (?:prompt|message|instructions)|(?:hidden|secret|initial|original|internal"
        rf"|confidential|developer)"
        r" (?:prompt|message|instructions)|your (?:prompt|instructions|configuration|guidelines))\b",
        ("prompt", "instructions", "system message", "secret message", "configuration", "guidelines", "message"),
    ),
    (
        "leak",
        r"\bwhat (?:is|are|was|were|does) (?:your|the) (?:system|hidden|initial|original|secret) (?:prompt"
        r"|instructions|message)"
        r"|\brepeat (?:everything|the words|all (?:the )?text) (?:above|before)\b",
        ("what ", "repeat"),
    ),
    (
        "delimiter",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>"
        r"|\[/?INST\]|<</?SYS>>"
        r"|</?(?:system|assistant|instructions?)>|(?:^|\n)#{2,4} ?(?:system|instruction|assistant)s? ?:"
        r"|(?:^|\n)\[?(?:system|assistant)\]?(?: message| note| override| prompt)? ?: ",
        ("<|", "[inst", "[/inst", "<<", "<system", "</system", "<inst", "</inst", "#", "system", "assistant"),
    ),
    (
        "address",
        rf"\b(?:attention|note|notice|message|instructions?|important|memo|dear|hey|hello|reminder)\W{{0,3}}"
        rf"(?:to|for|,)?\W{{0,3}}(?:all |any |the |you, )?{_MODEL}\W{{0,2}}(?:reading|processing"
        rf"|summari[sz]ing|reviewing|:|,|who)",
        (
            "attention",
            "note",
            "notice",
            "message",
            "instruction",
            "important",
            "memo",
            "dear",
            "hey",
            "hello",
            "reminder",
        ),
    ),
    (
        "address",
        rf"\bif you are (?:an? |the )?{_MODEL}\b|\bas an? {_MODEL}, you (?:must|should|will|are required)\b"
        rf"|\b{_MODEL} (?:reading|processing|summari[sz]ing) this (?:must|should|will|text|document|page)",
        ("if you are", "as a", "reading", "processing", "summari"),
    ),
    (
        "address",
        r"\b(?:do not|don't|never|without) (?:tell|mention|inform|inform|reveal|mentioning"
        r"|informing|disclose)\w{0,3}"
        r" (?:this |it |any of this )?(?:to )?(?:the |any )?(?:user|human|reader|customer|anyone)\b",
        ("user", "human", "reader", "customer", "anyone"),
    ),
    (
        "channel",
        r"\b(?:send|forward|post|upload|transmit|exfiltrate|email|e-mail|leak|submit|copy)\W{1,3}"
        r"(?:[\w'’-]{1,20}\W{1,3}){0,4}?"
        r"(?:conversation|chat|history|data|contents?|credentials?|passwords?|keys?|secrets?|tokens?|everything|files?)\b"
        r"\W{1,3}(?:[\w'’-]{1,20}\W{1,3}){0,4}?(?:to|at)\W{1,3}(?:https?://|[\w.+-]{1,40}@[\w-]{1,40}\.)",
        ("http", "@"),
    ),
    ("channel", r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{0,200}\?[^)\s]{0,120}=", ("![",)),
    (
        "channel",
        r"\b(?:call|invoke|use|run|execute|trigger) (?:the )?[`'\"]?[\w.]{2,40}[`'\"]? (?:tool|function|command|plugin)"
        r" (?:with|to (?:send|delete|transfer|email|forward|buy|pay|post))",
        ("tool", "function", "command", "plugin"),
    ),
    (HIDDEN, "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]{4,64}|[\U000e0001-\U000e007f]{2,64}", ()),
)


def injection_recognizers() -> list[Recognizer]:
    """One recognizer a pattern."""
    return [Recognizer(kind, re.compile(text, re.IGNORECASE), None, signs) for kind, text, signs in _PATTERNS]


_TASK: Final = re.compile(
    r"\b(?:summari[sz]e|summary|sum up|tl;?dr|rewrite|rephrase|paraphrase|translate|proofread|shorten|extract|classify"
    r"|key points|correct the|zusammenfass|übersetz|résume|traduis|resume|traduce|analy[sz]e|review"
    r"|what does .{0,40} say)",
    re.IGNORECASE,
)
_QUOTED: Final = re.compile(
    r"```.*?(?:```|\Z)|\"\"\".*?(?:\"\"\"|\Z)|<(\w{1,20})>.*?(?:</\1>|\Z)|“[^”]{20,}”|\"[^\"]{40,}\"|(?:^>.*(?:\n|\Z))+"
    r"|-{3,}\n.*?(?:\n-{3,}|\Z)",
    re.DOTALL | re.MULTILINE,
)
_AFTER: Final = re.compile(r":\s*\n(?P<rest>.{40,})\Z", re.DOTALL)


def quoted_in(text: str) -> list[str]:
    """The parts of a message that are data: quoted, fenced or tagged, or all after `: ` and a line end.

    Empty unless the message requests a summary, a rewrite or the like.
    """
    if _TASK.search(text[:2000]) is None and _TASK.search(text[-500:]) is None:
        return []
    found = [match.group() for match in _QUOTED.finditer(text)]
    if not found and (after := _AFTER.search(text)) is not None:
        found = [after["rest"]]
    return found


_INVISIBLE: Final = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\U000e0001-\U000e007f]")


def folded(text: str) -> str:
    """The text without invisible characters, and with compatibility forms as plain letters."""
    return text if text.isascii() else _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
