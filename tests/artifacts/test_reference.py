"""What only some methods need of the reference: made once, only where a sweep asks, the same warm and cold."""

import dataclasses

import numpy as np
import pytest
import torch

from posweep.artifacts.reference import mismatch
from posweep.artifacts.shared import prepare
from posweep.artifacts.store import MADE, Store
from posweep.config import configure
from posweep.errors import DataError
from posweep.policy.batch import Batch
from posweep.policy.load import trained
from posweep.policy.score import score_all, sequence_logps
from posweep.policy.train import reset
from posweep.records import TrialSpec
from posweep.trial import run_trial
from posweep.trial.loss import objective_of, preference_loss

from ..rounding import assert_near, near, rounding


@pytest.fixture(scope="module")
def all_needs():
    """A sweep with a method for every need."""
    return configure([
        "sweep=smoke", "method=[dpo,kto,sampo,ld_dpo,wpo]", "model.hidden_size=16", "data.pairs=96",
        "data.evaluation_prompts=8", "model.sft.steps=5",
    ])  # fmt: skip


@pytest.fixture(scope="module")
def kept(all_needs, tmp_path_factory):
    return Store(tmp_path_factory.mktemp("needs") / "artifacts")


@pytest.fixture(scope="module")
def shared(all_needs, kept):
    return prepare(all_needs, kept)


def spec_of(shared, method: str, **train) -> TrialSpec:
    settings = shared.configuration.methods[method]
    trained = {**dataclasses.asdict(shared.configuration.train), **train}
    names = ("micro_batch_size", "evaluate_at", "threads")
    train = {name: value for name, value in trained.items() if name not in names}
    return TrialSpec("k", "r", "s", "c", method, settings.hyperparameters, train, seed=0)


@pytest.mark.parametrize(
    ("methods", "extras"),
    [
        ("[dpo,simpo,wpo]", set()),
        ("[dpo,kto]", {"mismatched"}),
        ("[sampo]", {"token_logps"}),
        ("[ld_dpo,dpo]", {"token_logps"}),
        ("[kto,ld_dpo,sampo]", {"mismatched", "token_logps"}),
    ],
)
def test_extras_are_made_only_where_a_method_asks(kept, shared, methods, extras, tmp_path):
    made: list[str] = []
    names = [f"method={methods}", "model.hidden_size=16", "model.layers=1", "data.pairs=96"]
    configuration = configure(["sweep=smoke", *names, "data.evaluation_prompts=8", "model.sft.steps=1"])
    prepare(configuration, Store(tmp_path, made.append))
    assert set(made) == {"sft", "pairs", "baselines", "scores"} | extras


def test_adding_such_a_method_remakes_nothing_else(all_needs, kept, shared, tmp_path):
    made: list[str] = []
    few = dataclasses.replace(all_needs, methods={"dpo": all_needs.methods["dpo"]})
    prepare(few, Store(tmp_path))
    prepare(all_needs, Store(tmp_path, made.append))
    assert set(made) == {"mismatched", "token_logps"}


def test_launch_has_a_word_for_everything_that_is_made(all_needs, tmp_path):
    made: list[str] = []
    prepare(all_needs, Store(tmp_path, made.append))
    assert set(made) | {"judge"} == set(MADE)


def test_a_mismatched_response_belongs_to_another_prompt_and_is_scored_after_the_pair_s_own(shared):
    pairs, extra = shared.pairs, shared.pair_logps.mismatched
    owners: dict[tuple, set] = {}
    for prompt, chosen, rejected in zip(pairs.prompts, pairs.chosen, pairs.rejected, strict=True):
        for response in (chosen, rejected):
            owners.setdefault(tuple(response), set()).add(tuple(prompt))
    for prompt, response in zip(pairs.prompts, extra.responses, strict=True):
        assert owners[tuple(response)] - {tuple(prompt)}
    expected = score_all(shared.reference, pairs.prompts, extra.responses)
    assert extra.logps.tolist() == near(expected.tolist())


def test_mismatches_take_both_sides_and_any_row_of_the_other_prompt():
    prompts = [[1], [1], [1], [2], [2], [3]]
    drawn = [mismatch(prompts, np.random.default_rng(seed)) for seed in range(200)]
    pairs = {(i, int(row)) for rows, _ in drawn for i, row in enumerate(rows)}
    assert pairs == {(i, j) for i in range(6) for j in range(6) if prompts[i] != prompts[j]}
    assert 0.4 < np.mean([rejected for _, rejected in drawn]) < 0.6


def test_one_prompt_alone_cannot_be_mismatched():
    with pytest.raises(DataError, match="all pairs have the same one"):
        mismatch([[1, 2], [1, 2]], np.random.default_rng(0))


def test_tokens_sum_to_the_sequences(shared):
    for side in ("chosen", "rejected"):
        flat, responses = getattr(shared.pair_logps.by_token, side), getattr(shared.pairs, side)
        ends = np.cumsum([len(response) for response in responses])
        assert len(flat) == ends[-1]
        sums = [part.sum() for part in np.split(flat, ends[:-1])]
        assert sums == near(getattr(shared.pair_logps, side).tolist())


@pytest.mark.parametrize("method", ["kto", "sampo", "ld_dpo", "wpo"])
def test_a_trial_is_the_same_from_a_cold_cache_and_a_warm_one(all_needs, shared, kept, method, tmp_path):
    warm, cold = prepare(all_needs, kept), prepare(all_needs, Store(tmp_path))
    found = [run_trial(spec_of(one, method), one) for one in (shared, warm, cold)]
    assert found[0].result.curves == found[1].result.curves == found[2].result.curves
    assert found[0].held_out == found[1].held_out == found[2].held_out


@pytest.mark.parametrize("method", ["kto", "sampo", "ld_dpo"])
def test_at_the_reference_extras_of_policy_and_reference_agree(shared, method):
    """The weights are those of the SFT policy, so every gain is 0 but for rounding."""
    reset(trained(shared.policy), shared.weights)
    loss, batch = preference_loss(spec_of(shared, method), shared), Batch(np.arange(32), epoch=1)
    with torch.no_grad():
        columns, known = loss.forward(batch), loss._known(batch)
    extras = [name for name in known if name.startswith("reference")]
    assert len(extras) > 2
    for name in extras:
        assert_near(columns[name.replace("reference", "policy")], known[name])


def test_collisions_are_the_probability_that_two_draws_agree(shared):
    """Σ_t log Σ_v π(v)², from the probabilities themselves, token by token."""
    from posweep.policy.score import collate, response_logits

    loss, items = preference_loss(spec_of(shared, "wpo"), shared), np.arange(3)
    found = loss.forward(Batch(items))["policy_rejected_collision_logps"]
    for i, value in zip(items, found.tolist(), strict=True):
        batch = collate([shared.pairs.prompts[i]], [shared.pairs.rejected[i]], 0, shared.policy.device)
        with torch.no_grad():
            chances = response_logits(shared.policy, batch).double().softmax(-1)
        assert value == near(float((chances**2).sum(-1).log().sum()))
    assert not found.requires_grad


def test_the_same_tokens_of_policy_and_reference_are_drawn_anew_each_epoch(shared):
    loss, items = preference_loss(spec_of(shared, "sampo"), shared), np.arange(32)
    first, again, other = (loss._known(Batch(items, epoch))["reference_chosen_common_logps"] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_held_out_pairs_are_scored_by_the_method_s_own_reward(shared):
    """LD-DPO's reward by hand on the first held-out pairs: α counts the tokens past the shorter length."""
    spec = spec_of(shared, "ld_dpo", learning_rate=0.01)
    outcome, one = run_trial(spec, shared), shared.evaluation[0]
    beta, alpha = objective_of(spec).beta, objective_of(spec).alpha
    rows = [row for row in outcome.held_out if row.set == one.name][:4]
    for i, row in enumerate(rows):
        shorter = min(len(one.pairs.chosen[i]), len(one.pairs.rejected[i]))
        for side, reward in (("chosen", row.chosen_reward), ("rejected", row.rejected_reward)):
            gains = _token_gains(shared, one.pairs.prompts[i], getattr(one.pairs, side)[i])
            expected = beta * (gains[:shorter].sum() + alpha * gains[shorter:].sum())
            assert reward == pytest.approx(float(expected), rel=1e-3, abs=rounding())


def _token_gains(shared, prompt, response) -> torch.Tensor:
    from posweep.policy.score import collate, response_logits, token_logps

    batch = collate([prompt], [response], 0, shared.policy.device)
    with torch.no_grad():
        policy, reference = (
            token_logps(response_logits(one, batch), batch.targets) for one in (shared.policy, shared.reference)
        )
    assert sequence_logps(shared.policy, batch).item() == near(policy.sum().item())
    return policy - reference
