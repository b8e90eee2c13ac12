"""A trial that was killed, stopped or short of memory comes to the numbers of one that was not."""

import dataclasses
import gc
import weakref

import numpy as np
import pytest
import torch

from posweep.artifacts.shared import prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.errors import JudgeUnavailable, NotFinite, OutOfMemory, Stopped
from posweep.judges import GoldJudge
from posweep.policy.checkpoint import CheckpointFile, Checkpoints
from posweep.records import Outcome, TrialSpec
from posweep.trial import evaluate as measuring
from posweep.trial import halving, rescore, run_trial
from posweep.trial import judge as judging
from posweep.trial.loss import PairLoss

from ..tiny import make_world


class Killed(BaseException):
    """No code of ours sees a SIGKILL."""


def under(shared, section: str, **changes):
    """The same artifacts under changed settings."""
    changed = dataclasses.replace(getattr(shared.configuration, section), **changes)
    return dataclasses.replace(shared, configuration=dataclasses.replace(shared.configuration, **{section: changed}))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A model trained whole, and a method for every need."""
    configuration = configure([
        "sweep=smoke", "method=[dpo,kto,sampo]", "model.hidden_size=16", "data.pairs=64", "data.evaluation_prompts=8",
        "model.sft.steps=5", "train.batch_size=8", "train.learning_rate=1e-2", "train.checkpoint_minutes=null",
        "evaluation.sets=[ood]", "sample.max_new_tokens=12",
    ])  # fmt: skip
    return prepare(configuration, Store(tmp_path_factory.mktemp("resume") / "artifacts"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A model by its name, trained through adapters."""
    world = make_world(tmp_path_factory.mktemp("world"))
    arguments = world.arguments(
        "model.lora.rank=4", "train.batch_size=4", "train.learning_rate=1e-2", "train.epochs=2",
        "train.checkpoint_minutes=null", "evaluation.sets=[iid]", "evaluation.prompts=2",
    )  # fmt: skip
    return prepare(configure(arguments), Store(tmp_path_factory.mktemp("lora") / "artifacts"))


def spec_of(shared, method: str = "dpo") -> TrialSpec:
    settings = shared.configuration.methods[method]
    return TrialSpec("k", "r", "s", "c", method, settings.hyperparameters, {}, seed=0)


def door_to(tmp_path, shared, asked=lambda: False, **settings) -> Checkpoints:
    train = dataclasses.replace(shared.configuration.train, **{"checkpoint_steps": 1, **settings})
    return Checkpoints(CheckpointFile(tmp_path / "k.pt", "k"), train, asked)


def numbers(outcome: Outcome) -> tuple:
    """All of an outcome but its times and notes."""
    result = outcome.result
    return result.status, result.measures, result.along, result.curves, outcome.responses, outcome.held_out


def killed(monkeypatch, spec, shared, door, after: int) -> None:
    """The trial up to its death in the forward pass that follows so many others."""
    seen: list[int] = []
    forward = PairLoss.forward

    def dying(loss, batch):
        if loss.name == "train":
            seen.append(1)
            if len(seen) > after:
                raise Killed
        return forward(loss, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PairLoss, "forward", dying)
        with pytest.raises(Killed):
            run_trial(spec, shared, door=door)


def killed_while_it_generates(monkeypatch, spec, shared, door) -> None:
    """The trial up to its death after the training."""

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "generate", die)
        with pytest.raises(Killed):
            run_trial(spec, shared, door=door)


# --- interrupted


CASES = {
    "dpo": ("scratch", "dpo", {}, 5),
    "a loss of the whole batch": ("scratch", "kto", {}, 3),
    "such a loss in parts": ("scratch", "kto", {"micro_batch_size": 3}, 19),
    "tokens drawn by epoch": ("scratch", "sampo", {"epochs": 2.0}, 11),
    "measured on the way": ("scratch", "dpo", {"evaluate_at": (0.5, 1.0), "micro_batch_size": 4}, 12),
    "adapters": ("lora", "dpo", {}, 5),
    "adapters in parts": ("lora", "dpo", {"micro_batch_size": 1, "evaluate_at": (0.5, 1.0)}, 21),
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_trial_goes_on_to_the_numbers_of_one_that_ran_through(request, tmp_path, monkeypatch, case):
    fixture, method, changes, after = CASES[case]
    shared = under(request.getfixturevalue(fixture), "train", **changes)
    spec = spec_of(shared, method)
    whole = run_trial(spec, shared)
    killed(monkeypatch, spec, shared, door_to(tmp_path, shared), after)
    run_trial(dataclasses.replace(spec, seed=5), shared)  # another trial in between, in the same process
    door = door_to(tmp_path, shared)
    at = door.begun.step
    assert 0 < at < len(whole.result.curves["loss"])
    resumed = run_trial(spec, shared, door=door)
    assert numbers(resumed) == numbers(whole)
    assert resumed.result.notes == {"resumed_at": at}


def test_what_was_trained_is_not_trained_again_because_measuring_was_cut_short(scratch, tmp_path, monkeypatch):
    spec = spec_of(scratch)
    killed_while_it_generates(monkeypatch, spec, scratch, door_to(tmp_path, scratch))
    with monkeypatch.context() as patch:
        trained = scarce(patch, 0)
        resumed = run_trial(spec, scratch, door=door_to(tmp_path, scratch))
    assert trained == []
    assert numbers(resumed) == numbers(run_trial(spec, scratch))
    assert resumed.result.notes == {"resumed_at": 8}


def test_seconds_add_up_over_the_pieces(scratch, tmp_path, monkeypatch):
    spec, door = spec_of(scratch), door_to(tmp_path, scratch)
    killed(monkeypatch, spec, scratch, door, 5)
    before = door_to(tmp_path, scratch).begun.about
    assert before["seconds"]["train"] > 0
    door = door_to(tmp_path, scratch)
    door.begun.about["seconds"] |= {"train": 1000.0, "generate": 50.0, "total": 1100.0}
    door.begun.about["started_at"] = 12345.0
    result = run_trial(spec, scratch, door=door).result
    assert 1000 < result.seconds["train"] < 1050
    assert 50 < result.seconds["generate"] < 100
    assert 1100 < result.seconds["total"] < 1200
    assert result.started_at == 12345.0


def test_a_trial_that_is_asked_to_stop_leaves_a_checkpoint(scratch, tmp_path):
    spec = spec_of(scratch)
    with pytest.raises(Stopped):
        run_trial(spec, scratch, door=door_to(tmp_path, scratch, lambda: True, checkpoint_steps=None))
    resumed = run_trial(spec, scratch, door=door_to(tmp_path, scratch))
    assert resumed.result.notes == {"resumed_at": 1}
    assert numbers(resumed) == numbers(run_trial(spec, scratch))


# --- checkpoints of other settings


def test_measures_on_the_way_under_other_judges_are_taken_again(scratch, tmp_path, monkeypatch):
    """The weights are the same, but they have moved on since: the trial begins again."""
    twice = under(scratch, "train", evaluate_at=(0.5, 1.0))
    spec = spec_of(twice)
    killed(monkeypatch, spec, twice, door_to(tmp_path, twice), 6)
    other = dataclasses.replace(spec, score_key="other")
    found = run_trial(other, twice, door=door_to(tmp_path, twice))
    assert found.result.notes == {}
    assert numbers(found) == numbers(run_trial(other, twice))


@pytest.mark.parametrize(("after", "resumed"), [(3, {"resumed_at": 3}), (6, {})])
def test_a_checkpoint_serves_other_prompts_until_a_moment_was_missed(scratch, tmp_path, monkeypatch, after, resumed):
    spec = spec_of(scratch)
    killed(monkeypatch, spec, scratch, door_to(tmp_path, scratch), after)
    twice, other = (
        under(scratch, "train", evaluate_at=(0.5, 1.0)),
        dataclasses.replace(spec, response_key="o", score_key="o"),
    )
    found = run_trial(other, twice, door=door_to(tmp_path, twice))
    assert found.result.notes == resumed
    assert numbers(found) == numbers(run_trial(other, twice))


def test_weights_of_another_shape_are_not_taken(scratch, lora, tmp_path, monkeypatch):
    killed(monkeypatch, spec_of(lora), lora, door_to(tmp_path, lora), 5)
    found = run_trial(spec_of(scratch), scratch, door=door_to(tmp_path, scratch))
    assert numbers(found) == numbers(run_trial(spec_of(scratch), scratch))


def test_the_micro_batch_of_the_checkpoint_goes_on(scratch, tmp_path, monkeypatch):
    three = under(scratch, "train", micro_batch_size=3)
    killed(monkeypatch, spec_of(three), three, door_to(tmp_path, three), 10)
    found = run_trial(spec_of(scratch), scratch, door=door_to(tmp_path, scratch))
    assert found.result.notes == {"resumed_at": 3}
    assert numbers(found) == numbers(run_trial(spec_of(three), three))


# --- out of memory


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Collecting garbage takes long in a process with as many objects as that of the tests."""
    monkeypatch.setattr(halving, "release", lambda: None)


ERRORS = {
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    "CPU": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    "Python": MemoryError(),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


def scarce(monkeypatch, pairs: int, error: BaseException = ERRORS["GPU"], after: int = 0) -> list[int]:
    """More than so many training pairs at once do not fit, once so many forward passes are done; what was tried."""
    tried: list[int] = []
    forward = PairLoss.forward

    def limited(loss, batch):
        if loss.name == "train":
            tried.append(len(batch))
            if len(batch) > pairs and len(tried) > after:
                raise error
        return forward(loss, batch)

    monkeypatch.setattr(PairLoss, "forward", limited)
    return tried


@pytest.mark.parametrize(("error", "method"), [*((error, "dpo") for error in ERRORS), ("GPU", "kto")])
def test_too_many_pairs_at_once_are_halved_until_they_fit(scratch, monkeypatch, error, method):
    expected = run_trial(spec_of(scratch, method), under(scratch, "train", micro_batch_size=2))
    with monkeypatch.context() as patch:
        tried = scarce(patch, 2, ERRORS[error])
        found = run_trial(spec_of(scratch, method), scratch)
    assert list(dict.fromkeys(tried)) == [8, 4, 2]
    assert numbers(found) == numbers(expected)
    assert found.result.notes == {"micro_batch_size": 2}


def test_what_ran_out_half_way_begins_again_and_not_at_its_checkpoint(scratch, tmp_path, monkeypatch):
    twice = under(scratch, "train", evaluate_at=(0.5, 1.0))
    expected = run_trial(spec_of(twice), under(twice, "train", micro_batch_size=4))
    with monkeypatch.context() as patch:
        scarce(patch, 4, after=6)
        found = run_trial(spec_of(twice), twice, door=door_to(tmp_path, twice))
    assert numbers(found) == numbers(expected)
    assert found.result.notes == {"micro_batch_size": 4}


def test_the_halved_batch_survives_an_interruption(scratch, tmp_path, monkeypatch):
    expected = run_trial(spec_of(scratch), under(scratch, "train", micro_batch_size=4))
    with monkeypatch.context() as patch:
        scarce(patch, 4)
        killed_while_it_generates(patch, spec_of(scratch), scratch, door_to(tmp_path, scratch))
    found = run_trial(spec_of(scratch), scratch, door=door_to(tmp_path, scratch))
    assert numbers(found) == numbers(expected)
    assert found.result.notes == {"micro_batch_size": 4, "resumed_at": 8}


def test_the_next_trial_begins_with_the_configured_size_again(scratch, monkeypatch):
    whole = run_trial(spec_of(scratch), scratch)
    with monkeypatch.context() as patch:
        scarce(patch, 2)
        run_trial(spec_of(scratch), scratch)
    after = run_trial(spec_of(scratch), scratch)
    assert numbers(after) == numbers(whole)
    assert after.result.notes == {}


def test_where_not_even_one_pair_fits_it_is_said_what_to_set(scratch, lora, monkeypatch):
    scarce(monkeypatch, 0)
    place = "train.micro_batch_size: not even one pair at a time fits into memory; set "
    with pytest.raises(OutOfMemory) as caught:
        run_trial(spec_of(scratch), scratch)
    assert str(caught.value) == f"{place}a smaller model, or fewer executor.workers, or take a larger machine."
    with pytest.raises(OutOfMemory) as caught:
        run_trial(spec_of(lora), lora)
    assert str(caught.value).startswith(f"{place}model.gradient_checkpointing=true, a smaller model, or fewer")


def test_memory_is_free_between_the_tries(scratch, monkeypatch):
    """What the failed try held is gone before the next one begins: frames, and with them activations."""
    held: list[weakref.ref] = []
    alive: list[int] = []
    forward = PairLoss.forward

    def filling(loss, batch):
        big = torch.ones(10)
        held.append(weakref.ref(big))
        if loss.name == "train" and len(batch) > 2:
            raise torch.OutOfMemoryError("full")
        return forward(loss, batch)

    def released():
        alive.append(sum(ref() is not None for ref in held))

    gc.disable()
    try:
        monkeypatch.setattr(PairLoss, "forward", filling)
        monkeypatch.setattr(halving, "release", released)
        run_trial(spec_of(scratch), scratch)
    finally:
        gc.enable()
    assert alive == [0, 0]


def scarce_sampling(monkeypatch, responses: int) -> list[int]:
    drawn: list[int] = []
    generate = measuring.generate

    def limited(spec, shared, stage):
        drawn.append(shared.configuration.sample.batch_size)
        if drawn[-1] > responses:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(spec, shared, stage)

    monkeypatch.setattr(measuring, "generate", limited)
    return drawn


def test_too_many_responses_at_once_are_halved_and_nothing_is_trained_again(scratch, monkeypatch):
    expected = run_trial(spec_of(scratch), under(scratch, "sample", batch_size=4))
    with monkeypatch.context() as patch:
        drawn, tried = scarce_sampling(patch, 4), scarce(patch, 8)
        found = run_trial(spec_of(scratch), scratch)
    assert drawn == [8, 4]
    assert tried == [8] * 8
    assert numbers(found) == numbers(expected)
    assert found.result.notes == {"sample_batch_size": 4}


def test_where_not_even_one_response_fits_training_is_not_halved(scratch, monkeypatch):
    tried = scarce(monkeypatch, 8)
    scarce_sampling(monkeypatch, 0)
    with pytest.raises(
        OutOfMemory, match=r"sample\.batch_size: not even one response at a time fits into memory; set a sm"
    ):
        run_trial(spec_of(scratch), scratch)
    assert tried == [8] * 8


def test_a_judge_that_does_not_fit_leaves_what_it_was_to_judge(scratch, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    kept: list[Outcome] = []
    with monkeypatch.context() as patch:
        patch.setattr(GoldJudge, "score", full)
        with pytest.raises(OutOfMemory) as caught:
            run_trial(spec_of(scratch), scratch, keep=kept.append)
    assert str(caught.value) == (
        "judge.gold: judging does not fit into memory; set fewer executor.workers, or take a larger machine."
    )
    assert numbers(rescore(spec_of(scratch), scratch, kept[0])) == numbers(run_trial(spec_of(scratch), scratch))


def test_other_mistakes_are_not_taken_for_it():
    assert not halving.out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not halving.out_of_memory(ValueError("out of memory"))


# --- garbage


def garbage(monkeypatch, score) -> None:
    monkeypatch.setattr(GoldJudge, "score", score)


def nan(self, prompts, responses):
    return np.where(np.arange(len(responses)) == 1, np.nan, 1.0)


def refusing(self, prompts, responses):
    raise NotFinite("output of the judge", "X: an output is not a finite number; set the judge's dtype=float32.")


@pytest.mark.parametrize("score", [nan, refusing])
def test_what_a_sound_judge_cannot_score_is_a_divergence(scratch, monkeypatch, score):
    garbage(monkeypatch, score)
    found = run_trial(spec_of(scratch), scratch).result
    assert (found.status, found.message) == ("diverged", "the score by judge gold is not finite at step 8")
    assert found.notes == {"diverged_by": "score by judge gold"}


@pytest.mark.parametrize("score", [nan, refusing])
def test_stored_responses_that_another_judge_cannot_score_likewise(scratch, monkeypatch, score):
    before = run_trial(spec_of(scratch), scratch)
    garbage(monkeypatch, score)
    found = rescore(dataclasses.replace(spec_of(scratch), score_key="other"), scratch, before)
    assert (found.result.status, found.result.score_key) == ("diverged", "other")
    assert found.result.message == "the score by judge gold is not finite"
    assert (found.responses, found.judged) == (before.responses, ())


def test_what_one_judge_could_not_score_another_may_and_nothing_is_trained(scratch, monkeypatch):
    before = run_trial(spec_of(scratch), scratch)
    with monkeypatch.context() as patch:
        garbage(patch, nan)
        lost = rescore(dataclasses.replace(spec_of(scratch), score_key="other"), scratch, before)
    assert lost.wants_only_judges
    found = rescore(spec_of(scratch), scratch, lost)
    assert (found.result.status, found.result.notes) == ("finished", before.result.notes)
    assert (found.result.measures, found.responses) == (before.result.measures, before.responses)


@pytest.mark.parametrize("score", [nan, refusing])
def test_a_judge_that_cannot_score_the_sft_model_either_is_to_blame_itself(scratch, monkeypatch, score):
    [part] = scratch.evaluation
    bad = dataclasses.replace(part.scores["gold"], fresh=part.scores["gold"].fresh * np.nan)
    broken = dataclasses.replace(scratch, evaluation=(dataclasses.replace(part, scores={"gold": bad}),))
    garbage(monkeypatch, score)
    kept: list[Outcome] = []
    with pytest.raises(
        JudgeUnavailable, match=r"judge\.gold: its scores of the SFT model's own responses are not finite"
    ):
        run_trial(spec_of(scratch), broken, keep=kept.append)
    assert len(kept) == 1


def test_a_policy_that_gives_no_probabilities_has_diverged_and_no_judge_is_asked(scratch, monkeypatch):
    def lost(*_):
        raise NotFinite("probability of the next token")

    monkeypatch.setattr(measuring, "generate", lost)
    monkeypatch.setattr(judging, "beaten", None)
    found = run_trial(spec_of(scratch), scratch).result
    assert (found.status, found.notes) == ("diverged", {})
    assert found.message == "the probability of the next token is not finite at step 8"
