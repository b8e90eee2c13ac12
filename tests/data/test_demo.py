import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from posweep import data
from posweep.data import demo
from posweep.data.demo import COUNTS, FILLERS, KIND_OF, KINDS, TRAINED_TOTAL, Request, annotator_utility, true_reward
from posweep.fields import range_problems
from posweep.settings import DemoData

SMALL = DemoData(pairs=300, sft_examples=300, evaluation_prompts=64)
ASK = "name two fruits and three tools"


@pytest.fixture(scope="module")
def world():
    return data.load(SMALL)


def asked(prompts) -> list[Request]:
    return [Request.parse(prompt) for prompt in prompts]


def kinds_of(request: Request) -> frozenset[str]:
    return frozenset((request.first, request.second))


# --- the reward


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        ("apple pear saw drill file", 1),
        ("saw pear file apple drill", 1),
        ("", 0),
        ("apple pear", 2 / 5),
        ("apple apple saw drill file", (4 - 0.5) / 5),  # repeated
        ("apple pear plum saw drill file", (5 - 0.5) / 5),  # surplus
        ("apple robin saw drill file", (4 - 0.5) / 5),  # of a kind not asked for
        ("apple three saw drill file", (4 - 0.5) / 5),  # no item at all
        ("sure here apple pear saw drill file indeed", 1 - 3 * 0.02),
        ("robin crow", -1 / 5),
        ("well well well", -3 * 0.02),
        ("apple plum pear pear saw", (3 - 2 * 0.5) / 5),  # a surplus item that is then repeated
    ],
)
def test_true_reward_by_hand(response, reward):
    assert true_reward(ASK, response) == pytest.approx(reward)


def test_the_annotators_utility_by_hand():
    assert annotator_utility(ASK, "apple pear saw sure", 0.1) == pytest.approx(6 * (3 / 5 - 0.02) + 0.1 * 4)


def test_every_item_has_one_kind_and_is_no_other_word():
    items = [item for kind in KINDS.values() for item in kind]
    assert len(set(items)) == len(items)
    assert not set(items) & {*FILLERS, *COUNTS, *KINDS, "name", "and"}


# --- prompts


def test_requests_survive_their_prompts():
    for first, second in itertools.permutations(list(KINDS)[:4], 2):
        for a, b in itertools.product(COUNTS.values(), repeat=2):
            request = Request(a, first, b, second)
            assert Request.parse(request.prompt()) == request


@pytest.mark.parametrize(
    "text",
    ["", "hello", "name two fruits or two tools", "name two fruits and two tools please", "name six fruits and two tools",
     "name two fruits and 2 tools", "name two heroes and two tools", "name two fruits and two heroes"],
)  # fmt: skip
def test_any_other_text_is_no_request(text):
    with pytest.raises(ValueError, match="not a prompt of the demo world"):
        Request.parse(text)


# --- the world


def digest(settings: DemoData) -> str:
    return hashlib.sha256(repr(data.load(settings)).encode()).hexdigest()


def test_another_process_makes_the_same_world():
    program = (
        "import hashlib; from posweep import data; from posweep.settings import DemoData;"
        f"print(hashlib.sha256(repr(data.load({SMALL!r})).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(SMALL)


def test_another_seed_makes_another_world():
    assert digest(SMALL) != digest(dataclasses.replace(SMALL, seed=1))


def test_sizes(world):
    assert (len(world.train), len(world.sft), len(world.judge)) == (300, 300, 0)
    assert {name: len(pairs) for name, pairs in world.evaluation.items()} == dict.fromkeys(SMALL.sets, 64)


@pytest.mark.parametrize("name", SMALL.sets)
def test_evaluation_prompts_are_different_and_unseen(world, name):
    prompts = [pair.prompt for pair in world.evaluation[name]]
    assert len(set(prompts)) == len(prompts)
    assert not set(prompts) & {item.prompt for item in (*world.train, *world.sft, *world.judge)}


def test_what_lies_outside_the_distribution_and_how(world):
    training = asked(item.prompt for item in (*world.train, *world.sft))
    seen = {kinds_of(request) for request in training}
    inside, pairs, counts = (asked(p.prompt for p in world.evaluation[name]) for name in ("iid", "ood", "ood_counts"))
    unseen = {kinds_of(request) for request in pairs}
    assert not unseen & seen
    assert not unseen & {kinds_of(request) for request in inside + counts}
    assert max(request.total for request in training + inside + pairs) == TRAINED_TOTAL
    assert min(request.total for request in counts) > TRAINED_TOTAL
    assert {kind for pair in unseen for kind in pair} <= {kind for pair in seen for kind in pair}


def test_answers_are_two_different_texts_of_the_worlds_words(world):
    pairs = [*world.train, *itertools.chain.from_iterable(world.evaluation.values())]
    assert all(pair.chosen != pair.rejected for pair in pairs)
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)] + [
        example.response for example in world.sft
    ]
    assert all(text.strip() for text in texts)
    assert {word for text in texts for word in text.split()} <= {*KIND_OF, *FILLERS}
    assert max(len(text.split()) for text in texts) < SMALL.max_response_tokens


def test_prompts_fit_their_limit(world):
    assert all(len(pair.prompt.split()) + 2 <= SMALL.max_prompt_tokens for pair in world.train)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_the_judges_share_is_split_by_prompt(share):
    loaded = data.load(dataclasses.replace(SMALL, judge_share=share))
    trials, judge = ({pair.prompt for pair in part} for part in (loaded.train, loaded.judge))
    assert len(loaded.train) + len(loaded.judge) == 300
    assert not trials & judge
    assert len(judge) == round(share * len(trials | judge))


@pytest.mark.parametrize("length_bias", [0.0, 0.1, 0.5])
def test_the_annotator_prefers_in_the_documented_log_odds(length_bias):
    """With margin m = U(chosen) − U(rejected), whichever answer is preferred |m| stays, and P(m > 0) = σ(|m|). The signs
    summed with weights 1 and |m| have known means and spreads; the second is off where the scale of U is."""
    pairs = data.load(dataclasses.replace(SMALL, pairs=3000, length_bias=length_bias)).train
    margins = np.array([
        annotator_utility(p.prompt, p.chosen, length_bias) - annotator_utility(p.prompt, p.rejected, length_bias)
        for p in pairs
    ])  # fmt: skip
    for weight in (np.ones(3000), np.abs(margins)):
        p = 1 / (1 + np.exp(-np.abs(margins)))
        surprise = (weight * ((margins > 0) + 0.5 * (margins == 0) - p)).sum()
        assert abs(surprise) < 4 * np.sqrt((weight**2 * p * (1 - p)).sum())


def test_a_liking_for_length_makes_chosen_responses_longer():
    def surplus(length_bias: float) -> float:
        pairs = data.load(dataclasses.replace(SMALL, pairs=2000, length_bias=length_bias)).train
        return float(np.mean([len(p.chosen.split()) - len(p.rejected.split()) for p in pairs]))

    none, some, much = map(surplus, (0.0, 0.2, 1.0))
    assert none < some < much
    assert much > 0


# --- fingerprints


@pytest.mark.parametrize(
    ("change", "same"), [({"evaluation_prompts": 128}, True), ({"pairs": 301}, False), ({"seed": 1}, False)]
)
def test_equal_training_fingerprints_mean_equal_training_data(change, same):
    one, other = SMALL, dataclasses.replace(SMALL, **change)
    assert (data.fingerprints(one)[0] == data.fingerprints(other)[0]) == same
    assert (data.load(one).train == data.load(other).train) == same
    assert data.fingerprints(one)[1] != data.fingerprints(other)[1]


def test_every_set_has_the_prompts_that_may_be_asked_for() -> None:
    """The range of `data.evaluation_prompts` ends where the smallest set does: 30 pairs of kinds · 2 orders · 10 counts."""
    assert range_problems(DemoData, {"evaluation_prompts": demo.HELD_OUT}, "data") == []
    assert "must be >= 8 and <= 600, got 601" in range_problems(DemoData, {"evaluation_prompts": 601}, "data")[0]
    world = demo.load(DemoData(pairs=32, sft_examples=32, evaluation_prompts=demo.HELD_OUT))
    assert {name: len({pair.prompt for pair in pairs}) for name, pairs in world.evaluation.items()} == dict.fromkeys(
        ("iid", "ood", "ood_counts"), 600
    )
