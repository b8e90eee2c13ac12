"""Trials in one pass come to the numbers of each alone, but for rounding."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from posweep.artifacts.shared import prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.errors import JudgeUnavailable, Stopped
from posweep.policy.batch import Losses
from posweep.policy.checkpoint import CheckpointFile, Checkpoints, Door
from posweep.policy.load import trained
from posweep.policy.stack import Stack
from posweep.records import Outcome, TrialSpec
from posweep.trial import evaluate as measuring
from posweep.trial import run_cohort, run_trial, training
from posweep.trial.course import Stopwatch
from posweep.trial.loss import preference_loss

from ..rounding import near
from ..tiny import make_world

MIXED = ("dpo", "simpo", "sampo", "wpo", "aot")
"""Log-probs alone, without a reference, by token, with collisions, and a loss of the whole batch."""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A model trained whole, and a method for every need."""
    configuration = configure([
        "sweep=smoke", f"method=[{','.join(MIXED)},kto]", "model.hidden_size=16", "data.pairs=64",
        "data.evaluation_prompts=16", "model.sft.steps=5", "train.batch_size=8", "train.learning_rate=1e-2",
        "train.checkpoint_minutes=null", "evaluation.sets=[iid,ood]", "sample.max_new_tokens=12",
    ])  # fmt: skip
    return prepare(configuration, Store(tmp_path_factory.mktemp("cohort") / "artifacts"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A model by its name, trained through adapters."""
    world = make_world(tmp_path_factory.mktemp("world"))
    arguments = world.arguments(
        "method=[dpo,simpo]", "model.lora.rank=4", "train.batch_size=4", "train.learning_rate=1e-2", "train.epochs=2",
        "train.checkpoint_minutes=null", "evaluation.sets=[iid]", "evaluation.prompts=4", "~method.dpo.grid.beta",
    )  # fmt: skip
    return prepare(configure(arguments), Store(tmp_path_factory.mktemp("lora") / "artifacts"))


def under(shared, section: str, **changes):
    """The same artifacts under changed settings."""
    changed = dataclasses.replace(getattr(shared.configuration, section), **changes)
    return dataclasses.replace(shared, configuration=dataclasses.replace(shared.configuration, **{section: changed}))


def specs_of(shared, *methods: str, seed: int = 0) -> list[TrialSpec]:
    """A trial of each method; learning rate and schedule differ from one to the next."""
    own = itertools.cycle(
        [{}, {"learning_rate": 3e-3, "schedule": "cosine"}, {"learning_rate": 3e-2, "max_grad_norm": 0.5}]
    )
    return [
        TrialSpec(f"k{i}", "r", "s", "c", method, shared.configuration.methods[method].hyperparameters, train, seed)
        for i, (method, train) in enumerate(zip(methods, own, strict=False))
    ]


def run(specs, shared, keep=lambda _: None, doors=None) -> list:
    doors = doors or [Door() for _ in specs]
    ends = {spec.key: end for spec, end in run_cohort(specs, shared, keep, doors)}
    return [ends[spec.key] for spec in specs]


def weights(shared) -> dict[str, torch.Tensor]:
    """Those of the policy that lies there, copied."""
    return {name: weight.detach().clone() for name, weight in trained(shared.policy).items()}


def alike(one: Outcome, other: Outcome) -> None:
    """The same but for rounding."""
    assert one.result.status == other.result.status
    assert one.result.curves.keys() == other.result.curves.keys()
    for name in ("loss", "grad_norm", "logps/chosen", "logps/rejected"):
        ours, theirs = one.result.curves[name], other.result.curves[name]
        assert ours[0] == near(theirs[0])
        assert ours == [pytest.approx(point, rel=1e-2, abs=1e-4) for point in theirs]
    same = [a.text == b.text for a, b in zip(one.responses, other.responses, strict=True)]
    assert sum(same) >= 0.95 * len(same)
    for name in ("chosen_logps_change", "rejected_logps_change", "chosen_reward"):
        ours, theirs = ([getattr(pair, name) for pair in outcome.held_out] for outcome in (one, other))
        assert ours == pytest.approx(theirs, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("methods", [MIXED, ("kto", "kto", "kto")])
@pytest.mark.parametrize("micro", [None, 3])
def test_trials_in_one_pass_come_to_what_each_does_alone(scratch, methods, micro):
    shared = under(scratch, "train", micro_batch_size=micro)
    specs = specs_of(shared, *methods)
    for spec, found in zip(specs, run(specs, shared), strict=True):
        alike(found, run_trial(spec, shared))
        assert found.result.key == spec.key
        assert found.result.notes == {"fused": len(specs)}


def test_adapters_beside_one_frozen_base_likewise(lora):
    specs = specs_of(lora, "dpo", "simpo", "dpo")
    for spec, found in zip(specs, run(specs, lora), strict=True):
        alike(found, run_trial(spec, lora))


def test_trials_measured_along_training_and_drawn_otherwise_for_kl(scratch):
    shared = under(under(scratch, "train", evaluate_at=(0.5, 1.0)), "sample", temperature=0.7)
    specs = specs_of(shared, "dpo", "simpo")
    for spec, found in zip(specs, run(specs, shared), strict=True):
        expected = run_trial(spec, shared)
        alike(found, expected)
        [(ours, theirs)] = zip(found.result.along, expected.result.along, strict=True)
        assert ours["measures"]["iid/kl_to_sft"] == pytest.approx(
            theirs["measures"]["iid/kl_to_sft"], rel=1e-2, abs=1e-4
        )


def test_a_cohort_repeats_bit_for_bit(scratch):
    first, again = (run(specs_of(scratch, "dpo", "simpo"), scratch) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert (one.result.curves, one.responses) == (other.result.curves, other.responses)


def test_responses_of_all_are_drawn_in_one_pass(scratch, monkeypatch):
    from posweep.trial import generate as drawing

    sample, groups = drawing.sample, []

    def counted(*given, **named):
        groups.append(named["groups"])
        return sample(*given, **named)

    monkeypatch.setattr(drawing, "sample", counted)
    run(specs_of(scratch, "dpo", "simpo", "dpo"), scratch)
    assert groups == [3]


def test_the_weights_of_each_lie_in_the_shared_policy_when_it_is_handed_over(scratch):
    specs, found = specs_of(scratch, "dpo", "simpo"), []
    for _ in run_cohort(specs, scratch, lambda _: None, [Door(), Door()]):
        found.append({name: value.detach().clone() for name, value in trained(scratch.policy).items()})
    for spec, weights in zip(specs, found, strict=True):
        run_trial(spec, scratch)
        for name, value in trained(scratch.policy).items():
            torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-4)
    assert not torch.equal(found[0]["model.norm.weight"], found[1]["model.norm.weight"])


# --- ends


def spoilt(method: str, step: int):
    """A loss of that method which is not finite from a step on."""

    def make(spec, shared):
        loss, calls = preference_loss(spec, shared), []
        good = loss.losses

        def losses(batch, columns):
            calls.append(batch)
            found, charts = good(batch, columns)
            return Losses(found * float("nan") if len(calls) >= step else found, charts)

        if spec.method == method:
            loss.losses = losses
        return loss

    return make


def test_one_that_diverges_is_a_result_and_the_others_go_on(scratch, monkeypatch):
    shared = under(scratch, "train", evaluate_at=(0.5, 1.0))
    specs = specs_of(shared, "dpo", "simpo", "dpo")
    whole = run(specs, shared)
    monkeypatch.setattr(training, "preference_loss", spoilt("simpo", 2))
    one, gone, other = run(specs, shared)
    assert (gone.result.status, gone.responses) == ("diverged", ())
    assert gone.result.message == "the loss is not finite at step 2"
    for found, expected in ((one, whole[0]), (other, whole[2])):
        assert (found.result.curves, found.result.measures) == (expected.result.curves, expected.result.measures)


def test_one_that_gives_no_probabilities_does_not_spoil_the_responses_of_the_others(scratch):
    specs = specs_of(scratch, "dpo", "simpo")
    specs[1] = dataclasses.replace(specs[1], train={"learning_rate": 1e38})
    found, gone = run(specs, under(scratch, "train", epochs=0.125))
    assert gone.result.status == "diverged"
    alike(found, run_trial(specs[0], under(scratch, "train", epochs=0.125)))


def test_trials_that_no_judge_has_read_are_kept_each_with_its_own_weights(scratch, monkeypatch):
    def away(*_):
        raise JudgeUnavailable("judge.llm: gone")

    specs, kept = specs_of(scratch, "dpo", "simpo"), []
    with monkeypatch.context() as patch:
        patch.setattr(measuring, "judge", away)
        ends = run(specs, scratch, kept.append)
    assert [type(end) for end in ends] == [JudgeUnavailable] * 2
    assert [(one.result.key, one.result.score_key) for one in kept] == [("k0", ""), ("k1", "")]


def test_what_goes_wrong_in_a_pass_of_several_is_everybody_s(scratch, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Stack, "logits", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        run(specs_of(scratch, "dpo", "simpo"), scratch)


# --- interrupted


def doors_to(tmp_path, shared, count: int, asked=lambda: False, **settings) -> list[Checkpoints]:
    train = dataclasses.replace(shared.configuration.train, **{"checkpoint_steps": 1, **settings})
    return [Checkpoints(CheckpointFile(tmp_path / f"k{i}.pt", f"k{i}"), train, asked) for i in range(count)]


def test_trials_that_are_asked_to_stop_go_on_together_or_alone(scratch, tmp_path):
    specs = specs_of(scratch, "dpo", "simpo", "sampo")
    whole = run(specs, scratch)
    ends = run(specs, scratch, doors=doors_to(tmp_path, scratch, 3, lambda: True))
    assert [type(end) for end in ends] == [Stopped] * 3
    alone = run_trial(specs[2], scratch, door=doors_to(tmp_path, scratch, 3)[2])
    alike(alone, whole[2])
    assert alone.result.notes == {"resumed_at": 1}
    again = run(specs[:2], scratch, doors=doors_to(tmp_path, scratch, 2))
    for found, expected in zip(again, whole, strict=False):
        alike(found, expected)
        assert found.result.notes == {"resumed_at": 1, "fused": 2}


def test_trials_that_were_interrupted_apart_go_on_apart(scratch, tmp_path):
    specs = specs_of(scratch, "dpo", "simpo", "dpo")
    with pytest.raises(Stopped):
        run_trial(specs[1], scratch, door=doors_to(tmp_path, scratch, 2, lambda: True)[1])
    found = run(specs, scratch, doors=doors_to(tmp_path, scratch, 3))
    assert [end.result.notes for end in found] == [{"fused": 2}, {"resumed_at": 1}, {"fused": 2}]
    for spec, one in zip(specs, found, strict=True):
        alike(one, run_trial(spec, scratch))


def test_the_policy_of_a_trial_lies_there_when_it_is_handed_over(scratch, tmp_path):
    """Also that of one that goes on apart from the others."""
    specs = specs_of(scratch, "dpo", "simpo", "dpo")
    with pytest.raises(Stopped):
        run_trial(specs[1], scratch, door=doors_to(tmp_path, scratch, 2, lambda: True)[1])
    doors = doors_to(tmp_path, scratch, 3)
    kept = {spec.key: weights(scratch) for spec, _ in run_cohort(specs, scratch, lambda _: None, doors)}
    for spec in specs:
        run_trial(spec, scratch)
        for name, expected in weights(scratch).items():
            torch.testing.assert_close(kept[spec.key][name], expected, rtol=1e-3, atol=1e-4)


# --- time


def test_trials_of_a_cohort_share_its_time(scratch):
    specs = specs_of(scratch, "dpo", "simpo")
    clock = Stopwatch()
    found = run(specs, scratch)
    whole = clock.total()["total"]
    assert 0 < sum(end.result.seconds["total"] for end in found) <= whole
    for end in found:
        stages = {name: seconds for name, seconds in end.result.seconds.items() if name != "total"}
        assert set(stages) == {"reset", "train", "generate", "kl", "judge", "measure"}
        assert sum(stages.values()) <= end.result.seconds["total"]


def test_measures_are_of_each_trial(scratch):
    found = run(specs_of(scratch, "dpo", "dpo", "dpo"), scratch)
    kl = [end.result.measures["iid/kl_to_sft"] for end in found]
    assert len(set(np.round(kl, 6))) == 3
