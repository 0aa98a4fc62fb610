"""`jethro chat` against a fake endpoint on a real port."""

import pytest

from tests.cli.fake_endpoint import answer, delta


def test_one_question_streams_the_answer_and_says_who_answered_and_why(run, endpoint):
    result = run("chat", "what is 40 + 2?", "--url", endpoint.url)
    assert result.exit_code == 0
    assert result.stdout == "42\n"
    assert result.stderr == "[small jlab-small · win rate 0.031 < threshold 0.420 · $0.00000125 · 2 tokens]\n"
    ((path, key, body),) = endpoint.asked
    assert (path, key) == ("/v1/chat/completions", None)
    assert body == {
        "model": "jethro",
        "messages": [{"role": "user", "content": "what is 40 + 2?"}],
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_options_reach_the_request(run, endpoint):
    options = ["--system", "be brief", "--max-tokens", "7", "--temperature", "0.5", "--model", "jlab-large"]
    assert run("chat", "q", "--url", endpoint.url + "/v1/", *options).exit_code == 0
    body = endpoint.asked[0][2]
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (7, 0.5, "jlab-large")


def test_address_and_key_come_from_the_environment(run, endpoint):
    assert run("chat", "q", JETHRO_URL=endpoint.url, JETHRO_API_KEY="s3cret").exit_code == 0
    assert endpoint.asked[0][1] == "Bearer s3cret"


def test_a_conversation_keeps_its_turns_until_it_is_begun_anew(run, endpoint):
    result = run("chat", "--url", endpoint.url, input="one\n\ntwo\n/new\nthree\n/what\nexit\nfour\n")
    assert result.exit_code == 0
    turns = [[m["content"] for m in body["messages"]] for _, _, body in endpoint.asked]
    assert turns == [["one"], ["one", "42", "two"], ["three"]]
    assert "no command /what" in result.stderr


def test_a_conversation_ends_with_the_input(run, endpoint):
    assert run("chat", "--url", endpoint.url, input="one\n").exit_code == 0
    assert len(endpoint.asked) == 1


def test_an_error_ends_the_turn_and_not_the_conversation(run, endpoint):
    endpoint.refuse = (429, "the queue is full")
    result = run("chat", "--url", endpoint.url, input="one\ntwo\n")
    assert result.exit_code == 0
    assert result.stderr.count("429: the queue is full") == 2
    assert [len(body["messages"]) for _, _, body in endpoint.asked] == [1, 1]


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        ((401, "wrong key"), "answered 401: wrong key; export JETHRO_API_KEY"),
        ((404, "The model 'x' does not exist"), "answered 404: The model 'x' does not exist"),
        ((502, "<html>bad gateway</html>"), "answered 502: <html>bad gateway</html>"),
    ],
)
def test_the_endpoints_own_words_are_shown(run, endpoint, refuse, said):
    endpoint.refuse = refuse
    result = run("chat", "q", "--url", endpoint.url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([delta("4"), {"error": {"message": "replica died"}}], "the answer was cut: replica died"),
        ([delta("4")], "the stream ended without [DONE]"),
        ([delta("4"), "{broken"], "unexpected character"),
    ],
)
def test_a_cut_answer_is_an_error_after_what_came(run, endpoint, events, said):
    endpoint.events = events
    result = run("chat", "q", "--url", endpoint.url)
    assert result.exit_code == 2
    assert result.stdout == "4"
    assert said in result.stderr


def test_nobody_there_says_how_to_start(run):
    result = run("chat", "q", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "http://127.0.0.1:9:" in result.stderr and "`jethro serve`" in result.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", ""])
def test_a_wrong_address_is_named(run, url):
    result = run("chat", "q", "--url", url)
    assert result.exit_code == 2
    assert f"--url {url}: " in result.stderr


def test_an_answer_cannot_command_the_terminal(run, endpoint):
    endpoint.events = answer("\x1b[2Jx\x07\x9b", "\ty\n")
    assert run("chat", "q", "--url", endpoint.url).stdout == "[2Jx\ty\n\n"
