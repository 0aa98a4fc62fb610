import pytest

from serve_app.engines.transformers.engine import PromptEncoder
from serve_app.errors import ContextLengthExceeded, RequestError
from serve_app.lab.model import build_tokenizer
from serve_app.types import Message, Query, Sampling

LAB = build_tokenizer()
STRICT = (
    "{% for m in messages %}{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if shout %}!{% endif %}"
)


def encoder(template=None, context=50, bos="<|bos|>") -> PromptEncoder:
    tokenizer = build_tokenizer()
    if template is not None:
        tokenizer.chat_template = template or None
    if bos is None:
        tokenizer.bos_token = None
    return PromptEncoder(tokenizer, context)


def chat(*turns, **options) -> Query:
    return Query(tuple(Message(role, content) for role, content in turns), **options)


def test_a_conversation_goes_through_the_template():
    ids = encoder().encode(chat(("system", "be short"), ("user", "hi")))
    assert LAB.decode(ids) == "<|bos|><|system|>be short<|user|>hi<|assistant|>"


def test_a_template_without_developer_gets_system():
    ids = encoder(STRICT).encode(chat(("developer", "x"), ("user", "y")))
    assert LAB.decode(ids) == "[system]x[user]y"


@pytest.mark.parametrize("turns", [[("assistant", "x")], [("developer", "x"), ("assistant", "y")]])
def test_what_a_template_refuses_is_the_caller_s_error(turns):
    with pytest.raises(RequestError, match="role assistant") as caught:
        encoder(STRICT.replace(", 'assistant'", "")).encode(chat(*turns))
    assert caught.value.param == "messages"


def test_template_options_pass():
    ids = encoder(STRICT).encode(chat(("user", "y"), extra={"chat_template_kwargs": {"shout": True}}))
    assert LAB.decode(ids) == "[user]y!"


def test_a_model_without_a_template_takes_no_chat():
    with pytest.raises(RequestError, match="/v1/completions"):
        encoder("").encode(chat(("user", "hi")))


def test_a_raw_prompt_is_taken_as_it_is():
    assert LAB.decode(encoder().encode(chat(("user", "abc"), endpoint="completions"))) == "abc"


def test_an_empty_raw_prompt_starts_from_the_start_token():
    assert encoder().encode(chat(("user", ""), endpoint="completions")) == [LAB.bos_token_id]
    with pytest.raises(RequestError, match="empty"):
        encoder(bos=None).encode(chat(("user", ""), endpoint="completions"))


@pytest.mark.parametrize(
    ("length", "max_tokens", "fits"), [(46, None, True), (47, None, False), (40, 7, True), (40, 8, False)]
)
def test_prompt_and_answer_must_fit(length, max_tokens, fits):
    """Three tokens of the 50 are the template's; an answer needs at least one."""
    asked = chat(("user", "a" * length), sampling=Sampling(max_tokens=max_tokens))
    if fits:
        assert len(encoder().encode(asked)) == length + 3
        return
    with pytest.raises(ContextLengthExceeded, match=f"50 .*{length + 3}"):
        encoder().encode(asked)


def test_room():
    assert encoder().room(30) == 20
