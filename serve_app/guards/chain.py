"""The chain of guards: checks of requests and answers, cheap ones first, with what each finding leads to.

Patterns run together over a text; classifiers after them, and only on what the patterns let pass. The findings of a
check are categories and numbers, never text.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from serve_app.config.guards import Action, GuardConfig, GuardsConfig, TextSource
from serve_app.config.placement import PersonalDataConfig
from serve_app.errors import ContentFiltered
from serve_app.guards.classifier import Classifier, verdict
from serve_app.guards.injection import HIDDEN, folded, quoted_in
from serve_app.guards.recognizers import recognizers_of
from serve_app.guards.spans import Recognizer, Span, find_all, merged
from serve_app.pools.base import Pool
from serve_app.tracing.spans import spanned
from serve_app.types import Message, Query
from serve_app.wire.frames import Call
from serve_app.wire.parameters import PASSED

_ORDER: Final[tuple[Action, ...]] = ("warn", "redact", "escalate", "block")
"""The weakest first."""
STOPS: Final = frozenset(("escalate", "block"))
"""Actions after which a text does not leave."""

_READ_BY_MODELS: Final = frozenset(("documents", "chat_template_kwargs", "suffix", "prediction", PASSED))
"""Keys of `Query.extra` whose texts a model reads."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guards say of a text. `action`: the strongest of all findings, None without any.

    `findings`: numbers by `guard.category`. `text`: with what is to be redacted replaced by `[category]`.
    """

    text: str
    action: Action | None = None
    findings: Mapping[str, int] = field(default_factory=Counter)

    @property
    def stops(self) -> bool:
        """Whether the text may not leave."""
        return self.action in STOPS

    @property
    def escalates(self) -> bool:
        """Whether another model should answer instead, if one can."""
        return self.action == "escalate"


class Guards:
    """The guards of a config over its pools. Raises ConfigError for a pattern or a policy file that is invalid."""

    def __init__(
        self,
        config: GuardsConfig,
        chain: Sequence[GuardConfig],
        personal: PersonalDataConfig,
        pools: Mapping[str, Pool],
    ) -> None:
        self.config = config
        self._guards = {guard.name: guard for guard in chain if guard.enabled}
        self._patterns = {name: recognizers_of(g, config, personal) for name, g in self._guards.items()}
        self._classifiers = {
            name: Classifier(guard, pools[guard.pool]) for name, guard in self._guards.items() if guard.pool is not None
        }

    def action_of(self, span: Span) -> Action:
        """What a finding leads to."""
        return self._guards[span.guard].action

    def recognizers(self, where: TextSource, pool: str | None = None) -> list[Recognizer]:
        """The patterns for texts that come from there, of an answer those for its pool."""
        return [r for name, guard in self._guards.items() if _counts(guard, where, pool) for r in self._patterns[name]]

    def classifies(self, where: TextSource, pool: str | None = None) -> bool:
        """Whether a model judges texts that come from there."""
        return any(_counts(self._guards[name], where, pool) for name in self._classifiers)

    def checks(self, where: TextSource, pool: str | None = None) -> bool:
        """Whether any guard checks texts that come from there."""
        return any(_counts(guard, where, pool) for guard in self._guards.values())

    def scan(self, text: str, where: TextSource, pool: str | None = None) -> Verdict:
        """The verdict of the patterns alone, which wait for nothing."""
        recognizers = self.recognizers(where, pool)
        spans = find_all(recognizers, text)
        plain = folded(text) if where != "output" else text
        if plain != text:  # what hides from the eye must not hide from a guard
            seen = find_all(recognizers, plain)
            unseen = [span._replace(start=0, end=0) for span in spans if span.category == HIDDEN]
            if len(seen) + len(unseen) > len(spans):
                text, spans = plain, [*unseen, *seen]
        return self.verdict(text, spans)

    def verdict(self, text: str, spans: Sequence[Span]) -> Verdict:
        """The verdict on a text with these findings."""
        if not spans:
            return Verdict(text)
        findings = Counter(f"{span.guard}.{span.category}" for span in spans)
        parts, at = [], 0
        for group in merged(sorted(spans)):
            if self.strongest(group) == "redact":
                parts += [text[at : group[0].start], f"[{group[0].category}]"]
                at = max(span.end for span in group)
        return Verdict("".join([*parts, text[at:]]), self.strongest(spans), findings)

    def strongest(self, spans: Sequence[Span]) -> Action:
        """Of the findings' actions."""
        return max((self.action_of(span) for span in spans), key=_ORDER.index)

    async def check_output(self, text: str, query: Query, call: Call, pool: str | None = None) -> Verdict:
        """The verdict on a whole answer of a pool: patterns, then classifiers on what those let pass.

        For strategies that may ask another model instead, see `Verdict.escalates`.
        """
        with spanned("guard output"):
            return await self._judged(self.scan(text, "output", pool), "output", query, call, pool)

    async def check_input(self, query: Query, call: Call) -> tuple[Query, Verdict]:
        """The query as it may continue, and the verdict on it. Raises ContentFiltered if it is too long to check."""
        with spanned("guard input"):
            return await self._check_input(query, call)

    async def _check_input(self, query: Query, call: Call) -> tuple[Query, Verdict]:
        size = sum(len(message.content) for message in query.messages)
        if self._guards and size > self.config.characters:
            raise ContentFiltered(
                f"The request has {size} characters, and guards check {self.config.characters}: send less.",
                param="messages",
            )
        messages, found, actions = [], Counter[str](), list[Action]()
        for message in query.messages:
            checked = message
            for where, text in _texts(message):
                verdict_ = self.scan(text, where)
                found.update(verdict_.findings)
                actions += [] if verdict_.action is None else [verdict_.action]
                if text == message.content and verdict_.text != text:
                    checked = message.rewritten(lambda part, where=where: self.scan(part, where).text)  # type: ignore[misc]
            messages.append(checked)
        extra = self._checked_extra(query.extra, found, actions) if query.extra else query.extra
        action = max(actions, key=_ORDER.index, default=None)
        whole = Verdict(
            "\n".join(text for m in messages for where, text in _texts(m) if where != "quoted"), action, found
        )
        if query.messages != tuple(messages) or extra is not query.extra:
            query = replace(query, messages=tuple(messages), extra=extra)
        return query, await self._judged(whole, "input", query, call, None)

    def _checked_extra(self, extra: Mapping[str, Any], found: Counter[str], actions: list[Action]) -> Mapping[str, Any]:
        """The further parameters as they may continue: of some the texts reach the model as its input does."""

        def checked(value: Any) -> Any:
            if isinstance(value, str):
                seen = self.scan(value, "input")
                found.update(seen.findings)
                actions.extend([] if seen.action is None else [seen.action])
                return seen.text
            if isinstance(value, Mapping):
                return {checked(name): checked(part) for name, part in value.items()}
            return [checked(part) for part in value] if isinstance(value, list | tuple) else value

        made = {name: checked(value) if name in _READ_BY_MODELS else value for name, value in extra.items()}
        return extra if made == extra else made

    async def _judged(self, so_far: Verdict, where: TextSource, query: Query, call: Call, pool: str | None) -> Verdict:
        """With the classifiers' verdicts, one after the other until one stops the text."""
        for name, classifier in self._classifiers.items():
            guard = self._guards[name]
            if so_far.stops or not _counts(guard, where, pool):
                continue
            category = await verdict(classifier, guard, so_far.text, query, call)
            if category is not None:
                findings = Counter(so_far.findings)
                findings[f"{name}.{category}"] += 1
                action = max([guard.action, *([so_far.action] if so_far.action else [])], key=_ORDER.index)
                so_far = Verdict(so_far.text, action, findings)
        return so_far


def _counts(guard: GuardConfig, where: TextSource, pool: str | None) -> bool:
    return where in guard.texts and (guard.pools is None or pool is None or pool in guard.pools)


def _texts(message: Message) -> list[tuple[TextSource, str]]:
    """What is checked of a message: the operator's own and the model's earlier turns are not."""
    if message.role in ("tool", "function"):
        return [("tool", message.content)]
    if message.role != "user":
        return []
    return [("input", message.content), *(("quoted", part) for part in quoted_in(message.content))]
