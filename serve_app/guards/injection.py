"""Heuristics of prompt injection: text that speaks to the model instead of being worked on.

Categories: `override` (ignore your instructions), `persona` (an unrestricted role), `leak` (the hidden prompt),
`delimiter` (markup of chat templates), `address` (content that addresses the model or hides from the user), `channel`
(data to an address outside), `hidden` (invisible characters). English first; the commonest phrases in German,
French and Spanish. Every pattern is bounded.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from serve_app.guards.spans import Recognizer

HIDDEN: Final = "hidden"
_RULES: Final = (
    r"(?:instructions?|prompts?|rules?|guidelines?|directives?|constraints|restrictions|training|programming)"
)
_WORDS: Final = r"\W{1,3}(?:[\w'’-]{1,20}\W{1,3})"
_MODEL: Final = (
    r"(?:(?:AI |virtual |helpful )?(?:assistants?|language models?|agents?|models?|chat ?bots?)|AIs?|LLMs?|ChatGPT|GPT"
    r"|Claude|Gemini|Copilot)"
)
_NAMED: Final = r"(?:AIs?|LLMs?|(?:AI )?language models?|AI assistants?|chat ?bots?|ChatGPT|GPT|Claude|Gemini|Copilot)"
_NOT: Final = r"(?<!not )(?<!never )(?<!n't )(?<!n’t )"
_UNBOUND: Final = (
    r"(?:DAN\b|unrestricted|unfiltered|uncensored|jailbroken|amoral|evil AI|without (?:any )?(?:rules"
    r"|restrictions|filters"
    r"|limits|ethics|safety)|no (?:rules|restrictions|filters|limits|ethical)|free of (?:all "
    r"|any )?(?:rules|restrictions))"
)

_Row = tuple[str, str, tuple[str, ...], Mapping[str, Any]]
"""Category, pattern, trigger, and what else of a Recognizer."""
_PATTERNS: Final[tuple[_Row, ...]] = (
    (
        "override",
        rf"{_NOT}\b(?:ignore|disregard|forget|override|bypass|overrule|stop following|do not follow|don't follow)"
        rf"{_WORDS}{{0,4}}?(?:previous|prior|above|earlier|preceding|before|all|any|your|system"
        rf"|original|initial|existing"
        rf"|these){_WORDS}{{0,2}}?{_RULES}\b",
        ("ignore", "disregard", "forget", "overr", "bypass", "follow"),
        {
            "heads": (
                *("ignore", "disregard", "forget", "override", "bypass", "overrule"),
                *("stop following", "do not follow", "don't follow"),
            )
        },
    ),
    (
        "override",
        rf"{_NOT}\b(?:ignore|disregard|forget) (?:everything|all|anything)(?: that was| that is)? "
        r"(?:above|before|you (?:were|have been) [a-z]{2,12}|you know|written so far|said so far|previously said)\b",
        ("ignore", "disregard", "forget"),
        {"heads": ("ignore", "disregard", "forget")},
    ),
    (
        "override",
        r"\b(?:must not|never|stop|no longer|do not|don't) (?:follow|obey)(?:ing)? (?:them\b|these\b"
        r"|your (?:rules|operator)"
        r"|(?:the|any|your) (?:instructions?|rules|prompt|messages?) (?:of|from"
        r"|in) (?:the )?(?:system|operator|developer))"
        r"|\bignore what the (?:user|customer|caller|reader)\b"
        r"|\b(?:supersede|override|replace|overrule)s? (?:the|your|all|any) (?:operator|system"
        r"|previous|original|earlier)",
        ("follow", "obey", "ignore what", "supersede", "override", "replace", "overrule"),
        {
            "heads": (
                *("must not", "never", "stop", "no longer", "do not", "don't", "ignore what the"),
                *("supersede", "override", "replace", "overrule"),
            )
        },
    ),
    (
        "override",
        rf"\b(?:your|the) (?:new|real|actual|true|updated) (?:{_RULES}|task|goal|objective|mission) "
        r"(?:is|are|now|follows?|:) (?:to|now|that you)|\bnew (?:(?:system )?instructions?"
        r"|system (?:prompt|message)) ?:"
        r"|\binstead of (?:summari[sz]ing|translating|rewriting)\b",
        ("new ", "real ", "actual ", "true ", "updated ", "instead of"),
        {"heads": ("your ", "the ", "new instruction", "new system", "instead of ")},
    ),
    (
        "override",
        rf"\b(?:ignorier|vergiss|missachte)\w{{0,3}}(?! nicht){_WORDS}{{0,4}}?(?:anweisung|vorgabe"
        rf"|regel|prompt)\w{{0,4}}"
        rf"|(?<!n')(?<!n’)\b(?:ignore[zr]?|oublie[zr]?){_WORDS}{{0,4}}?(?:instructions|consignes|règles)"
        rf"|(?<!no )\b(?:ignora|olvida){_WORDS}{{0,4}}?(?:instrucciones|indicaciones|reglas)",
        ("ignorier", "vergiss", "missachte", "ignore", "oublie", "ignora", "olvida"),
        {"heads": ("ignorier", "vergiss", "missachte", "ignore", "oublie", "ignora", "olvida")},
    ),
    (
        "persona",
        r"(?:\b(?:you are|you're|roleplay|role-play|and)|(?:^|[.!?:;,\n\"] {0,2}|please |now (?:on )?(?:you )?)"
        rf"(?:act|behave|respond|answer|pretend)){_WORDS}{{0,6}}?{_UNBOUND}",
        ("you are", "you're", "act", "behave", "respond", "answer", "pretend", "role"),
        {
            "also": (
                *("dan", "unrestricted", "unfiltered", "uncensored", "jailbroken", "amoral", "evil", "without "),
                *("no r", "no f", "no l", "no e", "free of "),
            )
        },
    ),
    (
        "persona",
        r"\b(?:developer|debug|god|admin|jailbreak|sudo|maintenance) mode (?:is )?(?:now )?(?:enabled"
        r"|activated|on|engaged)\b"
        r"|\bdo anything now\b|\b(?:enter|enable|activate|switch to) (?:developer|god|jailbreak|sudo) mode\b",
        ("mode", "do anything"),
        {
            "heads": (
                *("developer", "debug", "god", "admin", "jailbreak", "sudo", "maintenance", "do anything now"),
                *("enter", "enable", "activate", "switch to"),
            )
        },
    ),
    (
        "leak",
        r"\b(?:reveal|show|print|repeat|output|display|tell|give|leak|expose|recite|disclose|dump|write out|copy|send)"
        rf"{_WORDS}{{0,7}}?(?:system (?:prompt|message|instructions)|(?:hidden|secret|initial|original"
        rf"|internal|confidential"
        r"|developer) (?:prompt|message|instructions)|your (?:prompt|instructions|configuration|guidelines)"
        r"|(?:prompt|instructions) (?:that (?:was|were)|you (?:were|have been)) given)\b",
        ("prompt", "instructions", "system message", "secret message", "configuration", "guidelines", "message"),
        {
            "heads": (
                *("reveal", "show", "print", "repeat", "output", "display", "tell", "give", "leak", "expose", "recite"),
                *("disclose", "dump", "write out", "copy", "send"),
            )
        },
    ),
    (
        "leak",
        r"\bwhat (?:is|are|was|were|does) (?:your|the) (?:system|hidden|initial|original|secret) (?:prompt|instructions"
        r"|message)|\brepeat (?:everything|the words|all (?:the )?text) (?:above|before)\b",
        ("what ", "repeat"),
        {"heads": ("what ", "repeat ")},
    ),
    (
        "delimiter",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id|end_header_id)\|>|\[/?INST\]"
        r"|<</?SYS>>|</?(?:system|assistant|instructions?)>|(?:^|\n)#{2,4} ?(?:system|instruction|assistant)s? ?:"
        r"|\n\[?(?:system|assistant)\]?(?: message| note| override| prompt)? ?: |^system ?: ?(?:you|your|the user)\b",
        ("<|", "[inst", "[/inst", "<<", "<inst", "</inst", "system", "assistant"),
        {"also": ("<", "[", ":")},
    ),
    (
        "address",
        r"\b(?:attention|note|notice|message|instructions?|text|important|memo|dear|hey|hello|reminder)\W{0,3}"
        rf"(?:to|for|,)?\W{{0,3}}(?:all |any |the |you, )?(?:{_MODEL}\W{{0,2}}(?:reading|processing|summari[sz]ing"
        rf"|reviewing|:)|{_NAMED}(?: \w{{2,12}})?\W{{0,1}}[,:])",
        ("attention", "not", "message", "instruction", "text", "important", "memo", "dear", "hey", "hello", "reminder"),
        {
            "heads": (
                *("attention", "note", "notice", "message", "instruction", "text", "important", "memo", "dear"),
                *("hey", "hello", "reminder"),
            )
        },
    ),
    (
        "address",
        rf"\bif you are (?:an? |the )?{_MODEL}\b|\bas an? {_NAMED}, you (?:must|should|will|are required)\b"
        rf"|\b{_MODEL} (?:reading|processing|summari[sz]ing) this (?:must|should|will|text|document|page)",
        ("if you are", "as a", "reading", "processing", "summari"),
        {
            "heads": (
                *("if you are", "as a", "ai", "virtual", "helpful", "assistant", "language model", "agent", "model"),
                *("chatbot", "chat bot", "llm", "chatgpt", "gpt", "claude", "gemini", "copilot"),
            )
        },
    ),
    (
        "address",
        r"\b(?:do not|don't|never|without) (?:tell|mention|inform|reveal|disclose)(?:ing)? (?:this |it |any of this )?"
        r"(?:to )?(?:the |any )?(?:user|human|reader|customer|anyone)\b",
        ("user", "human", "reader", "customer", "anyone"),
        {"heads": ("do not", "don't", "never", "without")},
    ),
    (
        "channel",
        rf"\b(?:send|forward|post|upload|transmit|exfiltrate|email|e-mail|leak|submit|copy){_WORDS}{{0,4}}?"
        r"(?:conversation|chat|history|data|contents?|credentials?|passwords?|keys?|secrets?|tokens?"
        r"|everything|files?|list)\b"
        rf"{_WORDS}{{0,5}}?(?:to|at)\W{{1,3}}(?:https?://|[\w.+-]{{1,40}}@[\w-]{{1,40}}\.)",
        ("http", "@"),
        {
            "heads": (
                *("send", "forward", "post", "upload", "transmit", "exfiltrate", "email", "e-mail", "leak", "submit"),
                "copy",
            )
        },
    ),
    ("channel", r"!\[[^\]\n]{0,80}\]\(https?://[^)\s]{0,200}\?[^)\s]{0,120}=", ("![",), {"heads": ("![",)}),
    (
        "channel",
        r"\b(?:call|invoke|use|run|execute|trigger) (?:the )?[`'\"]?[\w.]{2,40}[`'\"]? (?:tool|function|command|plugin)"
        r" (?:with|to (?:send|delete|transfer|email|forward|buy|pay|post))",
        ("tool", "function", "command", "plugin"),
        {"heads": ("call", "invoke", "use", "run", "execute", "trigger")},
    ),
    (
        HIDDEN,
        "[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]{4,64}|[\U000e0001-\U000e007f]{2,64}",
        (),
        {"foreign": True},
    ),
)


def injection_recognizers() -> list[Recognizer]:
    """One recognizer a pattern."""
    return [
        Recognizer(kind, re.compile(text, re.IGNORECASE), None, signs, **more) for kind, text, signs, more in _PATTERNS
    ]


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


_SPACED: Final = re.compile(r"(?<!\S)(?:\S ){4,200}\S(?!\S)")
"""Letters with a blank between any two, as in `i g n o r e`."""
_SOME_SPACED: Final = re.compile(r" (?<=\S )\S \S \S \S")
"""What a text with such letters holds, found fast: a search goes from blank to blank."""


def folded(text: str) -> str:
    """The text without invisible characters and blanks inside words, and with compatibility forms as plain letters."""
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if _SOME_SPACED.search(text) is None or _SPACED.search(text) is None:
        return text
    return re.sub(r" {2,9}", " ", _SPACED.sub(lambda found: found.group().replace(" ", ""), text))
