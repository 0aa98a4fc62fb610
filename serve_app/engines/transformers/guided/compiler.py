"""Compiles forms of answers into guides: on threads of its own, within bounds, and once for equal forms.

The library is llguidance, one of those that vLLM uses: it refuses keywords of JSON schema that it cannot keep, has no
dependencies and compiles a schema in milliseconds. docs/structured.md has a measurement next to xgrammar.
"""

import asyncio
import hashlib
import random
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from serve_app.engines.structured import Constraint
from serve_app.engines.transformers.guided.grammars import JSON_OPTIONS, CallPlan, call_grammar, grammar_of
from serve_app.engines.transformers.guided.guide import Closer, Guide, reason
from serve_app.engines.transformers.guided.vocabulary import AnyVocabulary
from serve_app.errors import Overloaded, RequestError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

COMPILE_S = 10.0
"""Longest time to compile a form; the compiler's own limits end it soon after."""
THREADS = 2
PENDING = 256
QUEUE_S = 30.0
"""Forms that may wait for a thread, and for how long."""
CACHED = 256
_BUSY = "too many schemas and grammars wait to be compiled; try again later"
TRIAL_TOKENS = 24
"""Tokens of a random answer that a new form is tried with: patterns that explode do so within a few."""

_LIMITS = LLParserLimits(
    max_lexer_states=50_000, step_lexer_fuel=200_000, max_grammar_size=200_000, verbose_errors=False
)


@dataclass(frozen=True, slots=True)
class Form:
    """A compiled form, shared by the requests that want it; every choice gets a Guide of its own."""

    vocabulary: AnyVocabulary
    closer: Closer
    matcher: LLMatcher
    plan: tuple[int, ...]
    is_json: bool

    def guide(self) -> Guide:
        """A Guide at the beginning of an answer."""
        return Guide(self.vocabulary, self.closer, self.matcher.deep_copy(), self.plan, is_json=self.is_json)


class Compiler:
    """Forms for one vocabulary and one context length (tokens), called on the event loop. `options`: how
    JSON is written.
    """

    def __init__(
        self, vocabulary: AnyVocabulary, context_tokens: int, options: "JsonCompileOptions" = JSON_OPTIONS
    ) -> None:
        self._vocabulary, self._context_tokens, self._options = vocabulary, context_tokens, options
        self._closer = Closer(vocabulary)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jethro-grammar")
        self._pending = 0
        self._forms: OrderedDict[bytes, Form | RequestError] = OrderedDict()

    async def form(self, constraint: Constraint | None, calls: CallPlan | None) -> Form:
        """The compiled form of a constraint, of tool calls, or of both; at least one is given.

        Raises:
            RequestError: the form is invalid, unsupported, too complex, or no answer within the context has it.
            Overloaded: too many forms wait to be compiled.
        """
        param = constraint.param if constraint is not None and calls is None else "tools"
        key = hashlib.sha256(repr((constraint, calls)).encode()).digest()
        found = self._forms.get(key)
        if found is None:
            found = await self._compiled(constraint, calls, param)
            self._forms[key] = found
        self._forms.move_to_end(key)
        while len(self._forms) > CACHED:
            self._forms.popitem(last=False)
        if isinstance(found, RequestError):
            raise RequestError(found.message, param=param, code=found.code)
        return found

    def close(self) -> None:
        """Ends the threads without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _compiled(self, constraint: Constraint | None, calls: CallPlan | None, param: str) -> Form | RequestError:
        if self._pending >= PENDING:
            raise Overloaded(_BUSY, retry_after_s=1)
        self._pending += 1
        loop, started = asyncio.get_running_loop(), asyncio.Event()

        def compile_form() -> Form | RequestError:
            loop.call_soon_threadsafe(started.set)
            return self._compile(constraint, calls, param)

        work = loop.run_in_executor(self._threads, compile_form)
        work.add_done_callback(self._finished)
        try:
            async with asyncio.timeout(QUEUE_S):
                await started.wait()
        except TimeoutError:
            work.cancel()
            raise Overloaded(_BUSY, retry_after_s=1) from None
        except asyncio.CancelledError:
            work.cancel()
            raise
        try:
            async with asyncio.timeout(COMPILE_S):
                return await asyncio.shield(work)
        except TimeoutError:
            return _refused(param, f"it took more than {COMPILE_S:g} s to compile: simplify it")

    def _finished(self, work: "asyncio.Future[Form | RequestError]") -> None:
        self._pending -= 1
        if not work.cancelled():
            work.exception()  # retrieved, or the loop reports one of a request that has left

    def _compile(self, constraint: Constraint | None, calls: CallPlan | None, param: str) -> Form | RequestError:
        try:
            if calls is not None:
                grammar = call_grammar(calls, constraint, self._options)
            else:
                assert constraint is not None
                grammar = grammar_of(constraint, self._options)
        except RequestError as e:
            return e
        matcher = LLMatcher(self._vocabulary.grammar_tokenizer, grammar, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            return _refused(param, reason(matcher))
        plan = self._closer.plan(matcher, self._context_tokens)
        if matcher.is_error():
            return _refused(param, reason(matcher))
        if plan is None:
            return _refused(
                param,
                f"no answer of this form within the model's context of {self._context_tokens} tokens was found: "
                "bound what is required, or end the recursion",
            )
        failure = self._tried(matcher.deep_copy())
        if failure is not None:
            return _refused(param, failure)
        is_json = calls.required if calls is not None else constraint is not None and constraint.kind == "json"
        return Form(self._vocabulary, self._closer, matcher, plan, is_json)

    def _tried(self, matcher: LLMatcher) -> str | None:
        """Why a random answer fails; None if it goes well."""
        rng = random.Random(0)
        for _ in range(TRIAL_TOKENS):
            if matcher.is_stopped():
                break
            mask = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.flatnonzero(np.unpackbits(mask, bitorder="little")[: self._vocabulary.extended])
            allowed = allowed[~np.isin(allowed, self._vocabulary.eos_ids)]
            if matcher.is_error() or not len(allowed):
                break
            matcher.consume_token(int(allowed[rng.randrange(len(allowed))]))
        return reason(matcher) if matcher.is_error() else None


def _refused(param: str, why: str) -> RequestError:
    return RequestError(f"{param}: this form of answer is not possible here: {why}.", param=param, code="invalid_value")
