"""What was judged once is never judged again: counted by judges that count, and by an endpoint that is really called."""

import math
import pickle
import sqlite3
import subprocess
import sys
import textwrap
import time
from multiprocessing import get_context

import numpy as np
import pytest

from posweep.errors import JudgeUnavailable
from posweep.judges import Judge, PairwiseJudge
from posweep.judges.cache import CachedJudge, CachedPairwiseJudge, Judgements
from posweep.judges.llm import LlmJudge
from posweep.records import Message

from .endpoint import Endpoint, longer, refusal

KEY = "sk-very-secret-0123456789"


class Lengths:
    """Scores by length, compares by length, and remembers what it was asked."""

    opponents = 3

    def __init__(self):
        self.asked = []

    def score(self, prompts, responses):
        self.asked += zip(prompts, responses, strict=True)
        return np.array([len(response) / 3 for response in responses], dtype=np.float32)

    def compare(self, prompts, responses, opponents):
        self.asked += zip(prompts, responses, opponents, strict=True)
        return np.array([float(len(r) > len(o)) for r, o in zip(responses, opponents, strict=True)])


@pytest.fixture
def judgements(tmp_path) -> Judgements:
    return Judgements(tmp_path / "judged" / "length.sqlite")


@pytest.fixture
def endpoint():
    with Endpoint(longer) as running:
        yield running


# --- the file


@pytest.mark.parametrize(
    "value", [0.1, -0.0, 0.0, 1.0, 2.0**60 + 1, 5e-324, math.pi, math.inf, -math.inf, float(np.float32(0.3))]
)
def test_numbers_come_back_to_the_last_bit(judgements, value):
    judgements.put({"a": value, "b": -value})
    found = judgements.get(["b", "a", "c"])
    assert (found["a"].hex(), found["b"].hex()) == (value.hex(), (-value).hex())
    assert set(found) == {"a", "b"}


def test_what_is_no_number_comes_back_as_that(judgements):
    judgements.put({"a": math.nan})
    assert math.isnan(judgements.get(["a"])["a"])


def test_the_first_judgement_stays_and_both_are_paid_for(judgements):
    judgements.put({"a": 1.0}, {"calls": 2})
    judgements.put({"a": 0.0, "b": 0.5}, {"calls": 3, "retried": 1})
    assert judgements.get("ab") == {"a": 1.0, "b": 0.5}
    assert judgements.counters() == {"calls": 5.0, "retried": 1.0}


def test_counters_add_up(judgements):
    assert judgements.counters() == {}
    assert not judgements.file.parent.exists()
    for amount in (1, 2, 0.5):
        judgements.put({}, {"seconds": amount})
    assert pickle.loads(pickle.dumps(judgements)).counters() == {"seconds": 3.5}


def test_more_keys_than_a_statement_takes(judgements):
    values = {str(i): float(i) for i in range(2500)}
    judgements.put(values)
    assert judgements.get([*values, "none", *values]) == values


@pytest.mark.parametrize("damage", ["not a database", "a broken page", "a journal of another file"])
def test_a_damaged_file_is_set_aside(judgements, damage):
    judgements.put({str(i): 1.0 for i in range(3000)}, {"calls": 1})
    whole = judgements.file.read_bytes()
    if damage == "a broken page":
        judgements.file.write_bytes(whole[:4096] + bytes(range(256)) * ((len(whole) - 4096) // 256))
    else:
        judgements.file.write_bytes(b"no sqlite file at all, " * 1000)
    if damage == "a journal of another file":
        judgements.file.with_name("length.sqlite-journal").write_bytes(b"nonsense")
    damaged = judgements.file.read_bytes()
    assert judgements.get(["1"]) == {}
    judgements.put({"1": 0.25})
    assert judgements.get(["1"]) == {"1": 0.25}
    assert judgements.file.with_name("length.sqlite.damaged-0").read_bytes() == damaged
    judgements.file.write_bytes(b"again" * 500)
    assert judgements.get(["1"]) == {}
    assert judgements.file.with_name("length.sqlite.damaged-1").exists()


def test_a_file_that_is_merely_busy_is_left_alone(judgements, monkeypatch):
    judgements.put({"a": 1.0})
    monkeypatch.setattr("posweep.judges.cache.PATIENCE", 0.05)
    with sqlite3.connect(judgements.file) as other:
        other.execute("BEGIN IMMEDIATE")
        assert judgements.get(["a"]) == {"a": 1.0}
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            judgements.put({"b": 1.0})
    judgements.put({"b": 1.0})
    assert list(judgements.file.parent.glob("*damaged*")) == []


def test_an_empty_file_is_begun(judgements):
    judgements.file.parent.mkdir()
    judgements.file.touch()
    assert judgements.get(["a"]) == {}


@pytest.mark.parametrize("content", [b"", b"no sqlite file at all, " * 1000])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_many_processes_write_one_file(judgements, start, content):
    judgements.file.parent.mkdir()
    judgements.file.write_bytes(content)
    with get_context(start).Pool(4) as pool:
        pool.starmap(judgements.put, [({str(i): float(i)}, {"calls": 1}) for i in range(40)])
        pool.close()
        pool.join()  # to be ended by a signal may leave a forked child waiting for a lock that nobody holds
    assert judgements.get(map(str, range(40))) == {str(i): float(i) for i in range(40)}
    assert judgements.counters() == {"calls": 40.0}
    assert len(list(judgements.file.parent.glob("*damaged*"))) == bool(content)


# --- scores


def test_each_text_is_scored_once(judgements):
    inner = Lengths()
    judge: Judge = CachedJudge(inner, judgements)
    first = judge.score(["p", "q", "p", "p"], ["aa", "aa", "aa", "b"])
    assert inner.asked == [("p", "aa"), ("q", "aa"), ("p", "b")]
    again = CachedJudge(Lengths(), Judgements(judgements.file)).score(["p", "q", "p", "p"], ["b", "aa", "aa", "aa"])
    assert first.tolist() == Lengths().score("pqpp", ["aa", "aa", "aa", "b"]).astype(np.float64).tolist()
    assert again.tolist() == first[[3, 1, 0, 2]].tolist()
    assert first.dtype == again.dtype == np.float64


def test_only_what_is_missing_is_scored(judgements):
    inner = Lengths()
    judge = CachedJudge(inner, judgements)
    judge.score(["p"], ["a"])
    assert judge.score(["p", "p"], ["bb", "a"]).tolist() == Lengths().score("pp", ["bb", "a"]).tolist()
    assert inner.asked == [("p", "a"), ("p", "bb")]


def test_a_question_is_the_same_however_it_is_written(judgements):
    inner = Lengths()
    turns = (Message("user", "p"), Message("assistant", "x"), Message("user", "p"))
    CachedJudge(inner, judgements).score(["p", (Message("user", "p"),), turns], ["a", "a", "a"])
    assert inner.asked == [("p", "a"), (turns, "a")]


def test_texts_are_not_run_together(judgements):
    inner = Lengths()
    CachedJudge(inner, judgements).score(["p", 'p","a', "p\ud83d"], ['a","b', "b", "c"])
    assert len(inner.asked) == 3


def test_nothing_is_nothing(judgements):
    assert CachedJudge(Lengths(), judgements).score([], []).shape == (0,)
    assert CachedPairwiseJudge(Lengths(), judgements).compare([], [], []).shape == (0,)


# --- comparisons


def test_each_comparison_is_made_once(judgements):
    inner = Lengths()
    judge: PairwiseJudge = CachedPairwiseJudge(inner, judgements)
    assert judge.opponents == 3
    assert judge.compare(["p", "p", "p"], ["aa", "b", "aa"], ["b", "aa", "b"]).tolist() == [1.0, 0.0, 1.0]
    assert inner.asked == [("p", "aa", "b"), ("p", "b", "aa")]
    assert judge.compare(["p"], ["b"], ["aa"]).tolist() == [0.0]
    assert len(inner.asked) == 2


def test_the_second_time_nobody_is_called(endpoint, judgements):
    columns = ["p", "p", "q", "p"], ["long", "x", "long", "long"], ["x", "long", "long", "x"]
    judge = CachedPairwiseJudge(LlmJudge(endpoint.settings()), judgements)
    assert judge.compare(*columns).tolist() == [1.0, 0.0, 0.5, 1.0]
    assert endpoint.calls == 4
    again = pickle.loads(pickle.dumps(judge))
    assert again.compare(*columns).tolist() == [1.0, 0.0, 0.5, 1.0]
    assert endpoint.calls == 4
    assert judgements.counters() == {
        "calls": 4, "comparisons": 3, "same": 1, "consistent": 2, "first_wins": 2, "second_wins": 2,
        "prompt_tokens": 40, "completion_tokens": 8,
    }  # fmt: skip


def test_what_was_paid_for_before_a_failure_is_kept(endpoint, judgements):
    columns = ["p"] * 10, ["x" * (i + 2) for i in range(10)], ["x"] * 10
    answered = []

    def until_six(prompt, first, second):
        answered.append(first)
        if len(answered) == 6:
            endpoint.reply = refusal(401)
        return longer(prompt, first, second)

    endpoint.verdict = until_six
    judge = CachedPairwiseJudge(LlmJudge(endpoint.settings(concurrency=1)), judgements)
    with pytest.raises(JudgeUnavailable, match="401"):
        judge.compare(*columns)
    assert judgements.counters()["calls"] == 6
    endpoint.reply, endpoint.judged = None, []
    assert judge.compare(*columns).tolist() == [1.0] * 10
    assert len(endpoint.judged) == 2 * 7
    assert judgements.counters()["calls"] == 20


COMPARE = """
    import os, sys
    from pathlib import Path
    from posweep.judges.cache import CachedPairwiseJudge, Judgements
    from posweep.judges.llm import LlmJudge
    from posweep.settings import LlmSettings

    settings = LlmSettings(base_url=sys.argv[1], model="judge", key_from="JUDGE_KEY", concurrency=2)
    judge = CachedPairwiseJudge(LlmJudge(settings), Judgements(Path(sys.argv[2])))
    print("ready", flush=True)
    sys.stdin.readline()
    count = int(sys.argv[3])
    print(judge.compare(["p"] * count, ["x" * (i + 2) for i in range(count)], ["x"] * count).tolist())
"""


def process(endpoint, judgements, count) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(COMPARE), endpoint.url, str(judgements.file), str(count)]
    started = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"JUDGE_KEY": KEY}
    )
    assert started.stdout.readline() == "ready\n"
    return started


def go(started: subprocess.Popen) -> None:
    started.stdin.write("\n")
    started.stdin.flush()


def test_two_processes_share_one_file(endpoint, judgements):
    endpoint.seconds = 0.005
    both = [process(endpoint, judgements, 20) for _ in range(2)]
    for started in both:
        go(started)
    said = [started.communicate()[0] for started in both]
    assert said == [f"{[1.0] * 20}\n"] * 2
    assert judgements.counters()["calls"] == endpoint.calls
    calls = endpoint.calls
    third = process(endpoint, judgements, 20)
    assert third.communicate("\n")[0] == said[0]
    assert endpoint.calls == calls
    assert set(endpoint.keys) == {f"Bearer {KEY}"}
    assert all(b"very-secret" not in file.read_bytes() for file in judgements.file.parent.iterdir())


def test_a_process_that_is_killed_keeps_what_was_paid_for(endpoint, judgements):
    endpoint.seconds = 0.02
    started = process(endpoint, judgements, 200)
    go(started)
    while len(endpoint.judged) < 40:
        time.sleep(0.01)
    started.kill()
    started.communicate()
    time.sleep(0.1)
    kept, called = judgements.counters()["comparisons"], endpoint.calls
    assert 2 * kept >= called - 2 * 2 - 2  # two comparisons were under way, and perhaps a third begun
    judge = CachedPairwiseJudge(LlmJudge(endpoint.settings(concurrency=8)), judgements)
    assert judge.compare(["p"] * 200, ["x" * (i + 2) for i in range(200)], ["x"] * 200).tolist() == [1.0] * 200
    assert endpoint.calls == called + 2 * (200 - kept)
