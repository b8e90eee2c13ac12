import dataclasses

import numpy as np
import pytest
import torch

from posweep.artifacts.baselines import draw
from posweep.artifacts.pairs import TokenPairs, load_pairs, save_pairs
from posweep.artifacts.shared import prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.trial import baseline_measures, run_trial

from ..rounding import near


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sweep with a trained judge: its configuration and its store."""
    configuration = configure([
        "sweep=smoke", "judge=[gold,bradley_terry]", "data.judge_share=0.5", "model.hidden_size=16",
        "model.sft.steps=5", "data.evaluation_prompts=8",
    ])  # fmt: skip
    return configuration, Store(tmp_path_factory.mktemp("trained"))


def folders(store: Store, kind: str) -> set[str]:
    return {file.name for file in (store.root / kind).iterdir() if file.is_dir()}


def test_token_lists_survive_their_file(tmp_path):
    pairs = TokenPairs([[1, 4], [1, 9, 4]], [[2], [5, 2]], [[7, 7, 2], [3]])
    save_pairs(pairs, tmp_path / "pairs.npz")
    assert load_pairs(tmp_path / "pairs.npz") == pairs
    assert pairs.lengths().tolist() == [2 * 2 + 1 + 3, 2 * 3 + 2 + 1]


def test_a_cold_and_a_warm_cache_give_the_same_numbers(smoke, shared, store, plan):
    made: list[str] = []
    warm = prepare(smoke, Store(store.root, made.append))
    assert made == []
    cold = prepare(smoke, Store(store.root.parent / "again", made.append))
    assert {"sft", "pairs", "baselines", "scores"} == set(made)
    outcomes = [run_trial(plan[0], one) for one in (shared, warm, cold)]
    for other, outcome in zip((warm, cold), outcomes[1:], strict=True):
        assert all(torch.equal(shared.weights[name], other.weights[name]) for name in shared.weights)
        assert torch.equal(shared.pair_logps.chosen, other.pair_logps.chosen)
        assert [s.sft for s in shared.evaluation] == [s.sft for s in other.evaluation]
        assert baseline_measures(shared) == baseline_measures(other)
        assert outcome.result.measures == outcomes[0].result.measures
        assert outcome.responses == outcomes[0].responses


def test_making_artifacts_moves_no_global_random_state(smoke, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    prepare(dataclasses.replace(smoke, evaluation=dataclasses.replace(smoke.evaluation, prompts=2)), Store(tmp_path))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("section", "change", "made"),
    [
        ("train", {"learning_rate": 1e-5}, set()),
        ("sample", {"batch_size": 3}, set()),
        ("evaluation", {"sets": ("ood",)}, set()),
        ("evaluation", {"prompts": 8}, {"baselines", "scores"}),
        ("sample", {"seed": 5}, {"baselines", "scores"}),
        ("data", {"evaluation_prompts": 12}, {"baselines", "scores"}),
        ("data", {"length_bias": 0.3}, {"sft", "pairs", "baselines", "scores"}),
        ("model", {"seed": 2}, {"sft", "pairs", "baselines", "scores"}),
    ],
)
def test_only_what_a_setting_determines_is_made_again(smoke, shared, store, section, change, made):
    said: list[str] = []
    changed = dataclasses.replace(getattr(smoke, section), **change)
    prepare(dataclasses.replace(smoke, **{section: changed}), Store(store.root, said.append))
    assert set(said) == made


def test_the_pairs_hold_the_reference_of_the_sft_policy(shared):
    from posweep.policy.score import score_all

    found = score_all(shared.reference, shared.pairs.prompts[:5], shared.pairs.rejected[:5])
    assert found.tolist() == near(shared.pair_logps.rejected[:5].tolist())


def test_each_prompt_has_its_baseline_responses(shared, smoke):
    for one in shared.evaluation:
        count = len(one.prompts)
        assert (len(one.sft.texts), len(one.fresh.texts)) == (4 * count, 4 * count)
        assert one.scores["gold"].sft.shape == (count, 4)
        assert one.scores["gold"].chosen.tolist() == shared.judges["gold"].score(one.prompts, one.chosen).tolist()
        assert one.scores["gold"].sft[1].tolist() == (
            shared.judges["gold"].score([one.prompts[1]] * 4, one.sft.texts[4:8]).tolist()
        )
        assert one.sft.texts != one.fresh.texts


def test_noise_streams_differ_by_name_and_set(shared, smoke):
    prompts = shared.evaluation[0].pairs.prompts
    drawn = [
        draw(shared.reference, prompts, name, of, 2, smoke.sample)
        for name, of in (("sft", "iid"), ("sft", "iid"), ("fresh sft", "iid"), ("sft", "ood"))
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] not in drawn[2:]


def test_a_trained_judge_says_what_it_is_worth(trained):
    shared = prepare(*trained)
    said = {name: value for name, value in shared.facts.items() if name.startswith("judge/bradley_terry/")}
    assert {name.rpartition("/")[2] for name in said} >= {"held_out_accuracy", "longer_wins_accuracy"}
    assert np.isfinite(list(said.values())).all()
    assert prepare(*trained).facts == shared.facts
    assert len(folders(trained[1], "judge")) == 1


def test_another_judge_retrains_no_policy(trained):
    configuration, store = trained
    prepare(configuration, store)
    sft = folders(store, "sft")
    longer = dataclasses.replace(configuration.judges["bradley_terry"], epochs=3.0)
    prepare(dataclasses.replace(configuration, judges={"bradley_terry": longer}), store)
    assert folders(store, "sft") == sft
    assert len(folders(store, "judge")) == 2
