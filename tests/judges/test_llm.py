"""A language model as a judge, asked over HTTP: an endpoint on this machine answers as each test tells it."""

import asyncio
import logging
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
import traceback

import numpy as np
import pytest

from posweep.errors import JudgeUnavailable
from posweep.judges import PairwiseJudge, llm
from posweep.judges.comparison import INSTRUCTION, instruct, planned, settings_problems, verdict
from posweep.judges.llm import ASKS, REFUSED, LlmJudge, notices, problems
from posweep.records import Message
from posweep.settings import LlmSettings

from .endpoint import (
    Endpoint,
    Reply,
    always,
    completion,
    limited,
    longer,
    refusal,
    wants_both,
    wants_no_temperature,
    wants_temperature_one,
    wants_the_new_limit,
)

KEY = "very-secret-0123456789"
WAIT = 0.02
"""Seconds that the endpoint asks for with Retry-After, so that no test waits for openai's own half second."""
PAIR = (["q"], ["a long answer"], ["short"])


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    """What an endpoint of another test took says nothing of one that happens to get its port; no proxies."""
    monkeypatch.setattr(llm, "_forms", {})
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def endpoint():
    with Endpoint(longer) as running:
        yield running


def counted(judge, *columns) -> tuple[np.ndarray, dict[str, float]]:
    """The results, and what they cost in all."""
    values, costs = np.full(len(columns[0]), np.nan), {}

    def deliver(index, value, counts):
        values[index] = value
        for name, amount in counts.items():
            costs[name] = costs.get(name, 0) + amount

    judge.compare_each(*columns, deliver)
    return values, costs


# --- comparing


def test_both_orders_are_asked(endpoint):
    judge: PairwiseJudge = LlmJudge(endpoint.settings(concurrency=1))
    found = judge.compare(["p", "q", "r"], ["long one", "a", "even"], ["short", "longer", "same"])
    assert found.tolist() == [1.0, 0.0, 0.5]
    assert found.dtype == np.float64
    assert endpoint.judged == [
        ("p", "long one", "short"), ("p", "short", "long one"),
        ("q", "a", "longer"), ("q", "longer", "a"),
        ("r", "even", "same"), ("r", "same", "even"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wins"), [("[[A]]", {"first_wins": 6}), ("[[B]]", {"second_wins": 6}), ("[[C]]", {"consistent": 3})]
)
def test_a_liking_for_a_place_cancels(endpoint, text, wins):
    endpoint.verdict = always(text)
    values, costs = counted(LlmJudge(endpoint.settings()), ["p"] * 3, ["a", "bb", "c"], ["d", "e", "ff"])
    assert values.tolist() == [0.5] * 3
    assert costs == {"comparisons": 3, "calls": 6, "prompt_tokens": 60, "completion_tokens": 12, **wins}


def test_a_tie_in_one_order_is_half_a_win(endpoint):
    endpoint.verdict = lambda prompt, first, second: "[[A]]" if first == "good" else "[[C]]"
    values, costs = counted(LlmJudge(endpoint.settings()), ["p"] * 2, ["good", "bad"], ["bad", "good"])
    assert values.tolist() == [0.75, 0.25]
    assert "consistent" not in costs


def test_equal_texts_are_a_tie_and_cost_nothing(endpoint):
    values, costs = counted(LlmJudge(endpoint.settings()), ["p"], ["same"], ["same"])
    assert (values.tolist(), costs, endpoint.calls) == ([0.5], {"comparisons": 1, "same": 1}, 0)


def test_nothing_to_compare_asks_nothing(endpoint):
    assert LlmJudge(endpoint.settings()).compare([], [], []).shape == (0,)
    assert endpoint.calls == 0


def test_results_are_in_order_whatever_the_order_of_answers(endpoint):
    def slow_at_first(prompt, first, second):
        time.sleep(0.03 * (4 - int(prompt)))
        return longer(prompt, first, second)

    endpoint.verdict = slow_at_first
    responses = ["long", "x", "long", "x", "long"]
    judge = LlmJudge(endpoint.settings(concurrency=5))
    assert judge.compare([str(i) for i in range(5)], responses, ["xx"] * 5).tolist() == [1, 0, 1, 0, 1]
    assert [prompt for prompt, *_ in endpoint.judged] != sorted(prompt for prompt, *_ in endpoint.judged)


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_as_many_calls_at_a_time_as_are_allowed(endpoint, limit):
    endpoint.seconds, count = 0.3, 2 * limit  # long enough for a busy machine to have them all on their way
    LlmJudge(endpoint.settings(concurrency=limit)).compare(["p"] * count, ["long"] * count, ["x"] * count)
    assert endpoint.most_at_once == limit
    assert endpoint.calls == 2 * count


def test_a_call_says_what_the_settings_say(endpoint):
    endpoint.instruction = "{second} or {first}? {prompt}"
    settings = endpoint.settings(instruction=endpoint.instruction, temperature=0.25, max_tokens=7)
    turns = (Message("user", "Hi {first}"), Message("assistant", "Yes?"), Message("user", "Why\n{x}?"))
    LlmJudge(settings).compare([turns], ["it {second} is"], ["{prompt} {0}"])
    body = endpoint.bodies[0]
    assert body["messages"] == [
        {
            "role": "user",
            "content": "{prompt} {0} or it {second} is? User: Hi {first}\n\nAssistant: Yes?\n\nUser: Why\n{x}?",
        }
    ]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("judge", 0.25, 7)


def test_half_a_surrogate_pair_is_sent_all_the_same(endpoint):
    assert LlmJudge(endpoint.settings()).compare(["p"], ["two \ud83d words"], ["x"]).tolist() == [1.0]


def test_it_runs_in_threads_in_loops_and_after_pickling(endpoint):
    judge, found = pickle.loads(pickle.dumps(LlmJudge(endpoint.settings()))), []
    threads = [threading.Thread(target=lambda: found.append(judge.compare(*PAIR)[0])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def inside():
        return judge.compare(*PAIR)[0]

    assert [*found, asyncio.run(inside())] == [1.0] * 4


# --- answers that are none


@pytest.mark.parametrize(
    ("text", "found"),
    {
        "[[A]]": 1.0, "[[B]]": 0.0, "[[C]]": 0.5, "Both fine.\n[[C]]\n": 0.5, "not [[A]] but [[B]]": 0.0,
        "<think>[[A]] or rather</think>\n[[B]]": 0.0, "So [[A]].</think>[[C]]": 0.5, "<think>[[A]]</think>": None,
        "<think>first [[A]], then": None, "[THINK][[A]][/THINK][[B]]": 0.0, "<Thinking>[[A]]</Thinking> [[B]]": 0.0,
        "<|channel|>analysis<|message|>[[A]]<|end|><|channel|>final<|message|>[[B]]": 0.0,
        "[[A]] or [[?]]": None, "": None, "A": None, "[A]": None, "[[a]]": None, "[[AB]]": None, "[[ A ]]": None,
    }.items(),
)  # fmt: skip
def test_the_last_verdict_counts(text, found):
    assert verdict(text) == found


def test_an_answer_without_a_verdict_is_asked_for_again(endpoint):
    endpoint.script = [Reply(body=completion("I like both.")), Reply(body={"error": {"message": "overloaded"}})]
    values, costs = counted(LlmJudge(endpoint.settings()), *PAIR)
    assert values.tolist() == [1.0]
    assert (costs["malformed"], costs["calls"], costs["consistent"]) == (2, 4, 1)


def test_a_judge_without_verdicts_is_undecided(endpoint):
    endpoint.verdict = always("Hard to say.")
    values, costs = counted(LlmJudge(endpoint.settings()), *PAIR)
    assert values.tolist() == [0.5]
    assert endpoint.calls == 2 * ASKS
    assert (costs["malformed"], costs["undecided"], costs["comparisons"]) == (2 * ASKS, 2, 1)
    assert "consistent" not in costs


def test_answers_that_are_no_completion_are_no_ties(endpoint):
    endpoint.reply = Reply(body="<html>log in</html>")
    with pytest.raises(
        JudgeUnavailable, match=r"judge\.llm\.base_url: http.* answers, but with no chat completion; .*/v1"
    ):
        LlmJudge(endpoint.settings()).compare(*PAIR)
    assert endpoint.calls == ASKS


@pytest.mark.parametrize("status", REFUSED)
def test_a_text_that_is_refused_is_a_tie(endpoint, status):
    endpoint.script = [refusal(status, "content filter")]
    settings = endpoint.settings(concurrency=1)
    values, costs = counted(LlmJudge(settings), ["p", "q"], ["long", "long"], ["x", "x"])
    assert values.tolist() == [(0.5 + 1 - 0) / 2, 1.0]
    assert (costs["refused"], costs["consistent"], costs["comparisons"]) == (1, 1, 2)


def test_an_endpoint_that_refuses_every_text_is_away(endpoint):
    endpoint.reply = refusal(400, "temperature must be 1")
    with pytest.raises(JudgeUnavailable, match=r"does not answer as asked \(Error code: 400 - temperature must be 1\)"):
        LlmJudge(endpoint.settings()).compare(*PAIR)


# --- what an endpoint takes


FORMS = {
    wants_the_new_limit: ({"max_completion_tokens", "temperature"}, 1),
    wants_temperature_one: ({"max_tokens"}, 1),
    wants_no_temperature: ({"max_tokens"}, 1),
    wants_both: ({"max_completion_tokens"}, 2),
}
"""What each endpoint is sent besides model and messages when all is learned, and after how many refusals of a probe."""


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_preflight_learns_what_the_endpoint_takes_and_no_call_is_refused_again(endpoint, form):
    endpoint.form, (sent, refused) = form, FORMS[form]
    assert problems(endpoint.settings(), "judge.llm") == []
    assert endpoint.calls == 1 + refused
    values, costs = counted(LlmJudge(endpoint.settings()), ["p"] * 4, ["long"] * 4, ["x"] * 4)
    assert (values.tolist(), costs["calls"], endpoint.calls) == ([1.0] * 4, 8, 1 + refused + 8)
    assert {frozenset(body) - {"model", "messages"} for body in endpoint.bodies[1 + refused :]} == {frozenset(sent)}
    assert costs.get("temperature_left_out", 0) == (0 if "temperature" in sent else 8)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_calls_that_are_under_way_learn_it_once_for_all(endpoint, form):
    endpoint.form, endpoint.seconds, (_, refused) = form, 0.01, FORMS[form]
    values, costs = counted(LlmJudge(endpoint.settings(concurrency=4)), ["p"] * 20, ["long"] * 20, ["x"] * 20)
    assert values.tolist() == [1.0] * 20
    assert "refused" not in costs
    assert endpoint.calls <= 4 + (1 + refused) + 40  # first calls, one probe in each form, and each order once


def test_a_temperature_that_is_left_out_is_said(endpoint):
    endpoint.form = wants_temperature_one
    assert notices(endpoint.settings(), "judge.llm") == []
    problems(endpoint.settings(), "judge.llm")
    [said] = notices(endpoint.settings(), "judge.llm")
    assert said.startswith(
        f"judge.llm.temperature: {endpoint.url} refuses 0 (Unsupported value: 'temperature' does not"
    )
    assert "judge.llm.temperature=null" in said
    assert notices(endpoint.settings(temperature=1.0), "judge.llm") == []


def test_null_sends_no_temperature_and_there_is_nothing_to_say(endpoint):
    endpoint.form = wants_no_temperature
    settings = endpoint.settings(temperature=None)
    assert (problems(settings, "judge.llm"), notices(settings, "judge.llm"), endpoint.calls) == ([], [], 1)
    _, costs = counted(LlmJudge(settings), *PAIR)
    assert "temperature_left_out" not in costs
    assert all("temperature" not in body for body in endpoint.bodies)


def test_a_temperature_of_null_has_a_key_of_its_own_and_others_keep_theirs():
    from posweep.fields import fingerprint
    from posweep.hub import identity

    keys = [fingerprint(identity(LlmSettings(model="m", temperature=t))) for t in (0.0, 1.0, None)]
    assert len(set(keys)) == 3
    assert keys[0] == "083a70bae2c1e50f"


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ({"error": {"message": "Bad value", "param": "temperature"}}, {"max_tokens"}),
        ({"detail": [{"loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]},
         {"max_completion_tokens", "temperature"}),
        ({"object": "error", "message": "temperature: must be > 0"}, {"max_tokens"}),
    ],
)  # fmt: skip
def test_refusals_are_read_in_the_shapes_that_servers_have(endpoint, body, sent):
    endpoint.script = [Reply(422, body)]
    assert problems(endpoint.settings(), "judge.llm") == []
    assert set(endpoint.bodies[-1]) - {"model", "messages"} == sent


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("max_tokens is too large: 99. This model supports at most 8", "judge.llm.max_tokens"),
        ("invalid temperature", "judge.llm.temperature"),
        ("no such thing", "judge.llm"),
    ],
)
def test_a_refusal_that_no_form_mends_names_its_setting(endpoint, said, setting):
    endpoint.reply = refusal(400, said)
    [sentence] = problems(endpoint.settings(), "judge.llm")
    assert sentence.startswith(f"{setting}: {endpoint.url} does not answer as asked (Error code: 400 - {said})")
    assert llm._forms == {}


def test_a_long_text_that_is_refused_teaches_nothing(endpoint):
    endpoint.script = [refusal(400, "'max_tokens' or 'max_completion_tokens' is too large: the context is 8 tokens")]
    _, costs = counted(LlmJudge(endpoint.settings(concurrency=1)), *PAIR)
    assert costs["refused"] == 1
    assert all("max_tokens" in body for body in endpoint.bodies)


def test_an_error_with_status_200_is_read(endpoint):
    endpoint.reply = Reply(body={"error": {"message": "no credits left", "code": 402}})
    [said] = problems(endpoint.settings(), "judge.llm")
    assert "answers, but with no chat completion (no credits left);" in said


def test_a_message_in_parts_is_its_text(endpoint):
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "[[A]]"}]}, {"type": "text", "text": "[[B]]"}]
    endpoint.reply = Reply(body=completion(parts))
    _, costs = counted(LlmJudge(endpoint.settings()), *PAIR)
    assert costs["second_wins"] == 2


@pytest.mark.parametrize(("text", "reason", "setting"), [("", "stop", "model"), (None, "length", "max_tokens")])
def test_an_empty_answer_is_said_before_anything_is_trained(endpoint, text, reason, setting):
    endpoint.reply = Reply(body=completion(text, reason))
    [said] = problems(endpoint.settings(), "judge.llm")
    assert said.startswith(f"judge.llm.{setting}: ")
    assert "raise judge.llm.max_tokens" in said


def test_answers_that_end_too_early_are_counted(endpoint):
    endpoint.reply = Reply(body=completion("<think>[[A]]", "length"))
    values, costs = counted(LlmJudge(endpoint.settings()), *PAIR)
    assert (values.tolist(), costs["unfinished"], costs["undecided"]) == ([0.5], 2 * ASKS, 2)


def test_an_endpoint_that_has_moved(endpoint):
    with Endpoint() as old:
        old.reply = Reply(307, "", {"Location": f"{endpoint.url}/v2/chat/completions?token=hush"})
        [said] = problems(old.settings(), "judge.llm")
    assert said == (
        f"judge.llm.base_url: {old.url} redirects to {endpoint.url}/v2 (404); set judge.llm.base_url to where it is."
    )


# --- waiting


def test_a_rate_limit_is_waited_for(endpoint):
    endpoint.script = [limited(0.2), limited(0.1)]
    began = time.monotonic()
    values, costs = counted(LlmJudge(endpoint.settings(concurrency=1)), *PAIR)
    assert time.monotonic() - began > 0.3
    assert (values.tolist(), costs["retried"], endpoint.calls) == ([1.0], 2, 4)


def test_a_busy_endpoint_is_asked_again(endpoint):
    endpoint.script = [refusal(503, Retry_After=str(WAIT)), Reply(seconds=0.5, body=completion("[[B]]"))]
    assert LlmJudge(endpoint.settings(timeout=0.25, concurrency=1)).compare(*PAIR).tolist() == [1.0]
    assert endpoint.calls == 4


def test_a_rate_limit_without_end_is_away(endpoint):
    endpoint.reply = limited(WAIT)
    with pytest.raises(
        JudgeUnavailable, match=r"limits the rate for longer than 3 attempts .*; lower judge\.llm\.concurrency"
    ):
        LlmJudge(endpoint.settings(attempts=3)).compare(*PAIR)
    assert endpoint.calls == 3


def test_an_endpoint_that_is_silent_is_away(endpoint):
    endpoint.seconds = 5
    with pytest.raises(JudgeUnavailable, match=r"judge\.mine\.timeout: .* gave no answer within 0\.1 s, attempts: 1;"):
        LlmJudge(endpoint.settings(timeout=0.1, attempts=1), "judge.mine").compare(*PAIR)


def test_an_answer_that_trickles_in_ends(endpoint):
    endpoint.reply = Reply(body=completion("[[A]]"), trickle=0.05)
    began = time.monotonic()
    with pytest.raises(JudgeUnavailable, match=r"gave no answer within 0\.3 s"):
        LlmJudge(endpoint.settings(timeout=0.3, attempts=1)).compare(*PAIR)
    assert time.monotonic() - began < 10


def test_an_endpoint_that_is_not_there_is_away():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    settings = LlmSettings(base_url=url, model="judge", attempts=1)
    with pytest.raises(JudgeUnavailable, match=rf"judge\.llm\.base_url: {url} cannot be reached"):
        LlmJudge(settings).compare(*PAIR)
    assert "cannot be reached" in problems(settings, "judge.llm")[0]


def test_after_a_failure_what_is_under_way_ends_and_nothing_is_begun(endpoint):
    endpoint.seconds = 0.05
    endpoint.script = [refusal(401)]
    delivered = []
    with pytest.raises(JudgeUnavailable):
        LlmJudge(endpoint.settings(concurrency=4)).compare_each(
            ["p"] * 20, ["long"] * 20, ["x"] * 20, lambda index, value, _: delivered.append((index, value))
        )
    assert sorted(value for _, value in delivered) == [1.0] * 3
    assert endpoint.calls == 1 + 3 * 2


def test_an_endpoint_that_asks_to_wait_an_hour_is_away(endpoint):
    endpoint.reply = limited(3600)
    [said] = problems(endpoint.settings(), "judge.llm")
    assert said.startswith(f"judge.llm.base_url: {endpoint.url} asks to wait 3600 s (Error code: 429 - slow down)")
    with pytest.raises(JudgeUnavailable, match="asks to wait 3600 s"):
        LlmJudge(endpoint.settings()).compare(*PAIR)
    assert endpoint.calls == 2


# --- certificates


def test_certificates_that_cannot_be_read_are_named_where_they_are_needed(endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert problems(endpoint.settings(), "judge.llm") == []
    for url in ("https://127.0.0.1:1/v1", "http://judge.invalid/v1"):
        settings = LlmSettings(base_url=url, model="judge", key_from="")
        [said] = problems(settings, "judge.llm")
        assert said.startswith(f"SSL_CERT_FILE: {tmp_path}/none.pem holds no certificates that can be read (")
        with pytest.raises(JudgeUnavailable, match="SSL_CERT_FILE"):
            LlmJudge(settings).compare(*PAIR)


# --- the key


def away(endpoint, monkeypatch, reply=None) -> JudgeUnavailable:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    endpoint.reply = reply
    with pytest.raises(JudgeUnavailable) as error:
        LlmJudge(endpoint.settings(key_from="JUDGE_KEY", attempts=1)).compare(*PAIR)
    return error.value


def test_the_key_opens_the_endpoint(monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", f" {KEY}\n")
    with Endpoint(key=KEY) as endpoint:
        assert LlmJudge(endpoint.settings(key_from="JUDGE_KEY")).compare(*PAIR).tolist() == [1.0]
        assert set(endpoint.keys) == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    "reply",
    [refusal(401, f"Incorrect key {KEY}"), refusal(403, KEY), refusal(404, KEY), refusal(429, KEY), refusal(500, KEY),
     refusal(418, f"Bearer {KEY}"), refusal(418, f"you sent sk-{KEY[:14]}***"), Reply(500, KEY), Reply(body=KEY)],
)  # fmt: skip
def test_the_key_is_in_nothing_that_is_said(endpoint, monkeypatch, caplog, capfd, reply):
    monkeypatch.setenv("OPENAI_LOG", "debug")
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    error = away(endpoint, monkeypatch, reply)
    said = [str(error), repr(error), repr(error.args), str(pickle.loads(pickle.dumps(error)))]
    said += traceback.format_exception(error)
    said += [str(record.__dict__) for record in caplog.records] + list(capfd.readouterr())
    assert all("very-secret" not in text for text in said)
    assert all(record.levelno >= logging.WARNING for record in caplog.records if record.name != "asyncio")
    assert error.__cause__ is None
    assert error.__context__ is None
    assert endpoint.keys == [f"Bearer {KEY}"] * len(endpoint.keys) != []


def test_a_refused_key_is_named_by_its_variable(endpoint, monkeypatch):
    said = str(away(endpoint, monkeypatch, refusal(401, KEY)))
    assert (
        said
        == f"judge.llm.key_from: {endpoint.url} refuses the key in JUDGE_KEY (401); export a valid key in JUDGE_KEY."
    )


def test_an_endpoint_elsewhere_needs_a_key(monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    settings = LlmSettings(base_url="https://judge.invalid/v1", model="judge", key_from="JUDGE_KEY")
    sentence = r"judge\.llm\.key_from: the environment variable JUDGE_KEY is not set in this process"
    with pytest.raises(JudgeUnavailable, match=sentence):
        LlmJudge(settings).compare(*PAIR)
    monkeypatch.setenv("JUDGE_KEY", "two words")
    assert problems(settings, "judge.llm") == [
        "judge.llm.key_from: JUDGE_KEY holds characters that no key has; export the key alone."
    ]


# --- before anything is trained


def test_a_judge_that_answers_has_no_problems(endpoint):
    assert problems(endpoint.settings(), "judge.llm") == []
    assert endpoint.calls == 1


@pytest.mark.parametrize(
    ("changes", "reply", "said"),
    {
        "no model": ({"model": ""}, None, "judge.llm.model: must name a model"),
        "unknown model": ({"model": "jugde"}, None, "judge.llm.model: http.* has no chat model 'jugde' (404)"),
        "instruction": ({"instruction": "{prompt} {x}"}, None, "judge.llm.instruction: .*; add {first}, {second}."),
        "refused": ({}, refusal(403), "judge.llm.key_from: .* refuses calls without a key (403)"),
        "no key named": ({"key_from": ""}, refusal(401), ".*refuses calls without a key (401); name its variable in"),
        "ill": ({}, refusal(503, "loading"), r"judge.llm: .* does not answer as asked (Error code: 503 - loading)"),
        "no quota": ({}, refusal(429, "pay", "insufficient_quota"), "judge.llm.attempts: .*Error code: 429 - pay"),
        "silent": ({"timeout": 0.1}, Reply(seconds=3), "judge.llm.timeout: .* gave no answer within 0.1 s, attempts: 1"),
        "another service": ({}, Reply(body="<html>"), "judge.llm.base_url: .* answers, but with no chat completion"),
        "cut": ({}, Reply(body=completion("Let me", "length")), "judge.llm.max_tokens: judge came to no verdict within 16"),
    }.values(),
)  # fmt: skip
def test_each_problem_is_one_sentence(endpoint, monkeypatch, changes, reply, said):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint.reply = reply
    found = problems(endpoint.settings(**{"model": "judge", **changes}), "judge.llm")
    assert len(found) == 1
    assert re.match(re.sub(r"([(){}])", r"\\\1", said), found[0]), found[0]
    assert found[0].endswith(".")


def test_a_rate_limit_is_no_reason_not_to_train(endpoint):
    endpoint.reply = limited(WAIT)
    assert problems(endpoint.settings(), "judge.llm") == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:hush@host/v1", "must hold no credentials"),
        ("https://hush@host/v1", "must hold no credentials"),
        ("https://host/v1?key=hush", "must hold no credentials"),
        ("https://host/v1#hush", "must hold no credentials"),
        ("http://[hush/v1", "is no address"),
        ("http://host:hush/v1", "is no address"),
        ("localhost:8000/v1", "must begin with http:// or https:// and a host, got 'localhost:8000/v1'"),
        ("", "must begin with http:// or https://"),
        ("https://x.example/v1?api-version=hush", "must hold no credentials, '?' or '#'"),
        ("https://host/v1/chat/completions", "must end before /chat/completions, which is added"),
        ("https://host/v1/chat/completions/", "must end before /chat/completions, which is added"),
    ],
)
def test_an_address_that_is_none_is_refused_and_never_called(url, said):
    settings = LlmSettings(base_url=url, model="judge")
    [found] = settings_problems(settings, "judge.llm")
    assert found.startswith(f"judge.llm.base_url: {said}")
    assert "hush" not in found
    with pytest.raises(JudgeUnavailable, match="base_url"):
        LlmJudge(settings).compare(*PAIR)


@pytest.mark.parametrize("end", ["", "/"])
@pytest.mark.parametrize("begin", ["http", "HTTP"])
def test_an_address_may_be_written_in_several_ways(endpoint, begin, end):
    settings = endpoint.settings(base_url=f"{begin}{endpoint.url.removeprefix('http')}{end}")
    assert LlmJudge(settings).compare(*PAIR).tolist() == [1.0]


def test_a_key_in_the_place_of_its_variable_is_not_repeated():
    [found] = settings_problems(LlmSettings(model="judge", key_from=KEY), "judge.llm")
    assert found.startswith("judge.llm.key_from: must name an environment variable")
    assert "secret" not in found


# --- planning


def test_what_is_planned_is_what_is_asked(endpoint):
    settings = endpoint.settings()
    prompts, responses, opponents = ["pp"] * 3, ["long"] * 3, ["x"] * 3
    calls, tokens = planned(settings, 3, sum(map(len, [*prompts, *responses, *opponents])))
    LlmJudge(settings).compare(prompts, responses, opponents)
    sent = sum(len(body["messages"][0]["content"]) for body in endpoint.bodies)
    assert calls == endpoint.calls == 6
    assert tokens == -(-sent // 4) + 6 * settings.max_tokens


def test_the_default_instruction_takes_every_text_once():
    assert settings_problems(LlmSettings(model="m", instruction=INSTRUCTION), "judge.llm") == []
    assert instruct("", "p?", "one", "two") == instruct(INSTRUCTION, "p?", "one", "two")
    assert [INSTRUCTION.count(f"{{{name}}}") for name in ("prompt", "first", "second")] == [1, 1, 1]


def test_planning_needs_no_client():
    modules = "posweep.judges.comparison, posweep.judges.llm"
    code = f"import sys, {modules}; sys.exit('openai' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_words_of_our_own_are_a_version_of_the_judge():
    """Other words are another judge: raise LlmSettings.wording with them, so that no sweep mixes two."""
    import hashlib

    words = hashlib.sha256(INSTRUCTION.encode()).hexdigest()[:12]
    assert (LlmSettings().wording, words) == (1, "5b73d694b020")


@pytest.mark.parametrize("pasted", ["gsk_Ab12cd", "hf_abCD", "AIzaSyAbc", "sk-proj-1"])
def test_a_key_in_place_of_its_variables_name_is_not_repeated(pasted):
    for url in ("https://api.example.com/v1", "http://127.0.0.1:1/v1"):
        [said] = settings_problems(LlmSettings(model="m", base_url=url, key_from=pasted), "judge.llm")
        assert pasted not in said
