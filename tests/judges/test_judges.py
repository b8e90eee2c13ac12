import json

import numpy as np
import pytest

from posweep.data.base import split_by_prompt
from posweep.judges import GoldJudge, ProxyJudge, wins
from posweep.judges.bradley_terry import load_judge, train_judge
from posweep.policy.scratch import make_tokenizer, new_policy
from posweep.records import PreferencePair
from posweep.settings import BradleyTerrySettings, ScratchModel

from ..rounding import near

LIMITS = (8, 12)
SETTINGS = BradleyTerrySettings(epochs=4, batch_size=16, learning_rate=0.01)
ASK = "name two fruits and three tools"
NOUNS = [f"noun{i}" for i in range(40)]


def test_wins_by_hand():
    scores, opponents = np.array([1.0, 0.0, 2.0]), np.array([[0, 1, 2, 0.5], [0, 0, 0, 0], [3, 4, 5, 6]])
    assert wins(scores, opponents).tolist() == [(1 + 0.5 + 0 + 1) / 4, 0.5, 0.0]


def test_wins_of_equals_sum_to_one():
    scores = np.random.default_rng(0).integers(0, 3, size=(50, 2)).astype(float)
    one, other = wins(scores[:, 0], scores[:, 1:]), wins(scores[:, 1], scores[:, :1])
    assert (one + other == 1).all()


def test_gold_knows_the_true_reward():
    assert GoldJudge().score([ASK] * 3, ["apple fig saw drill file", "", "apple"]).tolist() == [1, 0, 0.2]


def test_proxy_likes_length_too():
    found = ProxyJudge(0.1).score([ASK] * 2, ["apple fig saw drill file", "apple well"])
    assert found == pytest.approx([6 * 1 + 0.5, 6 * (0.2 - 0.02) + 0.2])


def preferences(prompts: int, per_prompt: int = 2) -> list[PreferencePair]:
    """Responses of one to six nouns; the one that says `good` is preferred to the one that says `bad`, wherever."""
    rng = np.random.default_rng(0)

    def text(word: str) -> str:
        nouns = list(rng.choice(NOUNS, size=rng.integers(1, 7)))
        return " ".join([*nouns[:1], word, *nouns[1:]])

    asked = [f"ask {i} {NOUNS[i % 40]}" for i in range(prompts)]
    return [PreferencePair(prompt, text("good"), text("bad")) for prompt in asked for _ in range(per_prompt)]


@pytest.fixture(scope="module")
def start():
    settings = ScratchModel(hidden_size=16, layers=1, heads=2)
    return new_policy(settings, make_tokenizer(settings, ["ask good bad " + " ".join(NOUNS)]))


@pytest.fixture(scope="module")
def folder(start, tmp_path_factory):
    made = tmp_path_factory.mktemp("judge")
    train_judge(SETTINGS, start, preferences(100), LIMITS, made)
    return made


def test_a_judge_learns_what_is_preferred(folder):
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["held_out_accuracy"] > 0.8
    assert facts["longer_wins_accuracy"] < 0.7
    assert (facts["training_pairs"], facts["held_out_pairs"]) == (160, 40)


def test_a_judge_scores_alike_in_any_company(folder, start):
    judge = load_judge(folder, start, LIMITS)
    pairs = preferences(9)
    prompts, responses = [p.prompt for p in pairs], [p.chosen for p in pairs]
    together = judge.score(prompts, responses)
    alone = [judge.score([prompt], [response])[0] for prompt, response in zip(prompts, responses, strict=True)]
    assert together == near(alone)
    assert judge.score(prompts, responses, batch_size=4) == near(together)
    assert judge.score(prompts, [p.rejected for p in pairs]).mean() < together.mean()


def test_a_judge_is_the_same_when_trained_or_read_again(folder, start, tmp_path):
    train_judge(SETTINGS, start, preferences(100), LIMITS, tmp_path)
    pairs = preferences(5)
    asked = [p.prompt for p in pairs], [p.chosen for p in pairs]
    scores = [load_judge(made, start, LIMITS).score(*asked).tolist() for made in (folder, folder, tmp_path)]
    assert scores[0] == scores[1] == scores[2]


def test_training_a_judge_leaves_the_policy_alone(start, tmp_path):
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    train_judge(BradleyTerrySettings(epochs=0.5, learning_rate=0.01), start, preferences(40), LIMITS, tmp_path)
    assert all((value == before[name]).all() for name, value in start.model.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_splits_share_no_prompt(share):
    first, second = split_by_prompt(preferences(50, per_prompt=3), share, 0)
    assert not {p.prompt for p in first} & {p.prompt for p in second}
    assert len(second) == 3 * round(50 * share)
    assert split_by_prompt(preferences(50, per_prompt=3), share, 0) == (first, second)


def test_a_trained_judge_is_a_reward_model_like_any_other(folder, start):
    """Its folder under `judge=[reward_model]`, in its own chat template, gives the scores it gives here."""
    from posweep.judges.reward_model import open_reward_model, problems
    from posweep.settings import RewardModelSettings

    settings = RewardModelSettings(name=str(folder), dtype="float32")
    assert problems(settings, "judge.reward_model") == []
    pairs = preferences(12)
    asked = [p.prompt for p in pairs], [p.chosen for p in pairs]
    ours = load_judge(folder, start, LIMITS).score(*asked)
    assert open_reward_model(settings, "cpu").score(*asked) == near(ours)
    assert ours.std() > 0.1
