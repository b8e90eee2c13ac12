import dataclasses
from contextlib import contextmanager

import pytest
import torch
from transformers.models.llama import modeling_llama

from posweep.artifacts.shared import prepare
from posweep.policy import operations, score
from posweep.policy.batch import Losses
from posweep.policy.reproducible import threads
from posweep.records import Outcome
from posweep.trial import evaluate as measuring
from posweep.trial import loss, rescore, run_trial, training
from posweep.trial import run as story
from posweep.trial.loss import preference_loss

from ..rounding import near


def numbers(outcome: Outcome) -> tuple:
    """All of an outcome but its times."""
    result = outcome.result
    return result.status, result.measures, result.curves, outcome.responses, outcome.held_out


def under(shared, section: str, **changes):
    """The same artifacts under changed settings."""
    changed = dataclasses.replace(getattr(shared.configuration, section), **changes)
    return dataclasses.replace(shared, configuration=dataclasses.replace(shared.configuration, **{section: changed}))


def trained(spec, **changes):
    return dataclasses.replace(spec, train={**spec.train, **changes})


@pytest.fixture(scope="module")
def outcome(plan, shared):
    return run_trial(plan[0], shared)


def test_a_trial_repeats_bit_for_bit(plan, shared, outcome):
    assert numbers(run_trial(plan[0], shared)) == numbers(outcome)


@pytest.mark.parametrize("before", [2, 4])
def test_the_trial_before_does_not_matter(plan, shared, outcome, before):
    run_trial(trained(plan[before], learning_rate=0.05), shared)
    assert numbers(run_trial(plan[0], shared)) == numbers(outcome)


def test_a_diverged_trial_before_does_not_matter(plan, shared, outcome, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(training, "preference_loss", bad_at(2))
        run_trial(plan[0], shared)
    assert numbers(run_trial(plan[0], shared)) == numbers(outcome)


def test_ambient_threads_do_not_matter(plan, shared, outcome):
    with threads(2):
        assert numbers(run_trial(plan[0], shared)) == numbers(outcome)
        assert torch.get_num_threads() == 2


def test_no_global_random_state_moves_or_matters(plan, shared, outcome):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert numbers(run_trial(plan[0], shared)) == numbers(outcome)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize("micro", [5, 16])
def test_the_micro_batch_changes_only_rounding(plan, shared, index, micro):
    whole = run_trial(plan[index], shared)
    parts = run_trial(plan[index], under(shared, "train", micro_batch_size=micro))
    for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):  # rewards are 0 at the start but for rounding
        first = [outcome.result.curves[name][0][1] for outcome in (whole, parts)]
        assert first[1] == near(first[0])
    same = [a.text == b.text for a, b in zip(whole.responses, parts.responses, strict=True)]
    assert sum(same) >= 0.97 * len(same)


@contextmanager
def plainly(shared):
    """The same artifacts, and every step computed as transformers and torch have it: padded rows, nothing of our own."""
    norms = {type(one) for one in shared.policy.model.modules() if isinstance(one, operations._Light)}
    with pytest.MonkeyPatch.context() as patch:
        for norm in norms:
            patch.setattr(norm, "forward", norm.__mro__[2].forward)
        patch.setattr(modeling_llama, operations.ROTATION, modeling_llama.apply_rotary_pos_emb.__wrapped__)
        for room in (loss, score):
            patch.setattr(room, "token_logps", lambda x, y: -torch.nn.functional.cross_entropy(x, y, reduction="none"))
        policies = {name: dataclasses.replace(getattr(shared, name), packs=False) for name in ("policy", "reference")}
        yield dataclasses.replace(shared, **policies)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_what_makes_it_fast_changes_only_rounding(plan, shared, index, shares):
    """Of the first step 1e-5; after the last, nearly all responses are the same, and what is measured is to a hundredth."""
    fast = run_trial(trained(plan[index], prefix_sharing=shares), shared)
    with plainly(shared) as plain:
        slow = run_trial(plan[index], plain)
    assert fast.result.curves != slow.result.curves  # they were computed otherwise
    for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
        first = [outcome.result.curves[name][0][1] for outcome in (fast, slow)]
        assert first[0] == near(first[1])
    pairs = list(zip(fast.responses, slow.responses, strict=True))
    same = [(one, other) for one, other in pairs if one.text == other.text]
    assert len(same) >= 0.97 * len(pairs)
    assert sum(one.kl for one, _ in same) == pytest.approx(sum(other.kl for _, other in same), rel=0.01)
    for one, other in zip(fast.held_out, slow.held_out, strict=True):
        assert dataclasses.astuple(one)[2:] == pytest.approx(dataclasses.astuple(other)[2:], rel=0.01, abs=0.01)


def test_the_seed_matters(plan, shared, outcome):
    other = run_trial(dataclasses.replace(plan[0], seed=1), shared)
    assert other.result.curves["loss"] != outcome.result.curves["loss"]
    assert other.responses != outcome.responses


def test_training_improves_what_it_trains_on(plan, shared):
    found = run_trial(trained(plan[0], learning_rate=3e-3, epochs=8.0), shared).result
    losses = [value for _, value in found.curves["loss"]]
    assert losses[0] == near(0.693147)
    assert losses[-1] < 0.63
    assert found.measures["iid/kl_to_sft"] > 0.1


def test_every_set_has_every_measure(outcome):
    sets = {}
    for name in outcome.result.measures:
        sets.setdefault(name.partition("/")[0], set()).add(name.partition("/")[2])
    assert set(sets) == {"iid", "ood", "ood_counts"}
    assert sets["iid"] == sets["ood"] == sets["ood_counts"]
    assert sets["iid"] >= {"win_rate_vs_sft", "win_rate_vs_sft_se", "proxy/win_rate_vs_sft", "kl_to_sft_se", "distinct"}
    assert sets["iid"] >= {"response_length", "preference_accuracy", "chosen_logps_change", "rejected_logps_change"}


# --- noise


def test_trials_share_noise_and_the_baseline_has_its_own(plan, shared):
    """Policies that hardly moved answer alike under the same noise, whatever the method; SFT has drawn otherwise."""
    still = [trained(spec, learning_rate=1e-12) for spec in (plan[0], plan[4])]
    one, other, seed = (
        [response.text for response in run_trial(spec, shared).responses]
        for spec in (*still, dataclasses.replace(still[0], seed=1))
    )
    assert one == other
    assert one != seed
    drawn = [text for part in shared.evaluation for text in part.sft.texts[:: part.sft.count]]
    assert sum(a == b for a, b in zip(one, drawn, strict=True)) < len(one) / 4


# --- along training


def test_looking_on_the_way_changes_nothing(plan, shared, outcome):
    looked = run_trial(plan[0], under(shared, "train", evaluate_at=(0.34, 1.0)))
    assert numbers(looked) == numbers(outcome)
    assert [point["at"] for point in looked.result.along] == [0.34]
    assert looked.result.along[0]["measures"].keys() == outcome.result.measures.keys()
    assert looked.result.along[0]["measures"] != outcome.result.measures
    assert outcome.result.along == ()


def test_points_that_fall_on_one_step_are_measured_once_and_the_end_wins(plan, shared, outcome):
    looked = run_trial(plan[0], under(shared, "train", evaluate_at=(0.95, 1.0)))
    assert numbers(looked) == numbers(outcome)
    assert looked.result.along == ()


# --- divergence


def bad_at(step: int):
    """A loss that is not finite from the given call on."""

    def make(spec, shared):
        loss, calls = preference_loss(spec, shared), []
        good = loss.losses

        def losses(batch, columns):
            calls.append(batch)
            found, charts = good(batch, columns)
            return Losses(found * float("nan") if len(calls) >= step else found, charts)

        loss.losses = losses
        return loss

    return make


@pytest.mark.parametrize("step", [1, 3])
def test_divergence_is_a_result(plan, shared, monkeypatch, step):
    monkeypatch.setattr(training, "preference_loss", bad_at(step))
    found = run_trial(plan[0], shared)
    assert (found.result.status, found.result.measures, found.responses) == ("diverged", {}, ())
    assert found.result.message == f"the loss is not finite at step {step}"
    assert (found.result.key, found.result.score_key) == (plan[0].key, plan[0].score_key)


@pytest.mark.parametrize("batch_size", [32, 96])
@pytest.mark.parametrize("rate", [1e5, 1e15, 1e25, 1e38])
def test_an_absurd_learning_rate_diverges_or_gives_finite_numbers(plan, shared, rate, batch_size):
    """With batches of 96 there is one step: the loss is fine, the weights after it need not be."""
    found = run_trial(trained(plan[0], learning_rate=rate, batch_size=batch_size), shared).result
    finite = all(torch.isfinite(torch.tensor(value)) for value in found.measures.values())
    assert found.status == "diverged" or finite


# --- other judges


@pytest.fixture
def other_judges(smoke, shared, store):
    judges = {name: smoke.judges[name] for name in ("proxy", "gold")}
    return prepare(dataclasses.replace(smoke, judges=judges), store)


def test_other_judges_read_the_same_responses_and_train_nothing(plan, outcome, other_judges, monkeypatch):
    spec = dataclasses.replace(plan[0], score_key="other")
    fresh = run_trial(spec, other_judges)
    monkeypatch.setattr(training, "optimise_all", None)
    found = rescore(spec, other_judges, outcome)
    assert numbers(found) == numbers(fresh)
    assert found.result.score_key == "other"
    assert found.result.measures != outcome.result.measures


def test_rescoring_keeps_how_long_training_took(plan, shared, outcome):
    assert rescore(plan[0], shared, outcome).result.seconds["train"] == outcome.result.seconds["train"]


def test_rescoring_uses_the_configured_threads(plan, outcome, shared, monkeypatch):
    seen = []

    def judge(responses, shared):
        seen.append(torch.get_num_threads())
        return tuple(responses)

    monkeypatch.setattr(story, "judge", judge)
    with threads(2):
        rescore(plan[0], shared, outcome)
    assert seen == [1]


# --- what is written down


def test_the_stages_take_the_whole_time(outcome):
    seconds = dict(outcome.result.seconds)
    total = seconds.pop("total")
    assert set(seconds) == {"reset", "train", "generate", "kl", "judge", "measure"}
    assert min(seconds.values()) > 0
    assert 0.8 * total < sum(seconds.values()) <= total


@pytest.mark.parametrize("steps", [1, 199, 200, 201, 399, 400, 403, 1000, 6007])
def test_curves_are_thinned_evenly_and_keep_their_end(steps):
    curve = story._thinned({"loss": [[step, 0.0] for step in range(1, steps + 1)]})["loss"]
    kept = [step for step, _ in curve]
    assert len(kept) <= story.CURVE_POINTS
    assert (kept[0], kept[-1]) == (1, steps)
    assert kept == sorted(set(kept))
    assert len(kept) >= min(steps, story.CURVE_POINTS / 2)


def test_a_batch_larger_than_the_data_does_not_hang(plan, shared, within):
    with within(2), pytest.raises(ValueError, match="batch"):
        run_trial(trained(plan[0], batch_size=97), shared)


def test_what_a_judge_left_unjudged_is_kept_once_the_training_is_over(shared, plan, monkeypatch):
    """And not before: a policy half trained is no result."""
    from posweep.errors import JudgeUnavailable

    def away(*_):
        raise JudgeUnavailable("judge.llm: gone")

    train = dataclasses.replace(shared.configuration.train, evaluate_at=(0.5, 1.0))
    twice = dataclasses.replace(shared, configuration=dataclasses.replace(shared.configuration, train=train))
    kept: list = []
    with monkeypatch.context() as patched:
        patched.setattr(measuring, "judge", away)
        for one in (twice, shared):
            with pytest.raises(JudgeUnavailable, match="gone"):
                run_trial(plan[0], one, keep=kept.append)
    [draft] = kept
    assert draft.result.score_key == ""
    whole, later = run_trial(plan[0], shared), rescore(plan[0], shared, draft)
    assert (later.result.measures, later.responses) == (whole.result.measures, whole.responses)
    assert later.result.curves == whole.result.curves
    assert (later.result.score_key, later.result.message) == (plan[0].score_key, "")
