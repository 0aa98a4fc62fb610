"""Random answers without a model: every allowed token is as likely, which no grammar may survive by luck."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from serve_app.engines.structured import Constraint, checked_schema
from serve_app.engines.transformers.guided.compiler import Compiler, Form
from serve_app.engines.transformers.guided.vocabulary import Vocabulary
from serve_app.lab.model import build_tokenizer

EOS = 2


def vocabulary() -> Vocabulary:
    """The lab's characters."""
    return Vocabulary(build_tokenizer(), frozenset([EOS]))


@contextmanager
def compiler(context: int = 512) -> Iterator[Compiler]:
    """A compiler whose threads end with the test."""
    made = Compiler(vocabulary(), context)
    try:
        yield made
    finally:
        made.close()


def json_of(schema) -> Constraint:
    """The constraint of a response_format."""
    return Constraint("json", checked_schema(schema, "response_format"), "response_format")


def walk(form: Form, budget: int, seed: int) -> tuple[str, str]:
    """A random answer of at most `budget` tokens: its text, and `stop` or `length`."""
    guide, rng, said = form.guide(), random.Random(seed), []
    words = np.zeros(guide.words, np.int32)
    while len(said) < budget:
        guide.fill(words.ctypes.data, words.nbytes)
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits[: guide.size])
        if not len(allowed):
            guide.force(bits)
        guide.choose(int(rng.choice(allowed)) if len(allowed) else 0, budget - len(said))
        assert guide.error is None
        if guide.said == EOS:
            return form.vocabulary.decode(said), "stop"
        said.append(guide.said)
        if guide.done:
            return form.vocabulary.decode(said), "stop"
    return form.vocabulary.decode(said), "stop" if guide.valid else "length"
