"""Responses labelled one by one: which methods can learn from them, and that each is scored after its own prompt."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from posweep.artifacts import reference
from posweep.artifacts.pairs import TokenPairs, encode_pairs, load_pairs, save_pairs
from posweep.artifacts.shared import prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.data import load
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES, PreferenceLogps, takes_unpaired
from posweep.plan import make_plan
from posweep.policy.batch import Batch
from posweep.policy.load import trained
from posweep.trial.loss import PairLoss, preference_loss

from ..rounding import assert_near, near
from ..tiny import QUESTIONS, make_world, posweep, write
from .cases import CASES
from .inputs import close, objective, random_logps, with_gradient

METHODS = ("kto", "bco", "sft", "nca")

every_method = pytest.mark.parametrize("name", OBJECTIVES)
able = pytest.mark.parametrize("name", [name for name, cls in OBJECTIVES.items() if takes_unpaired(cls)])


# --- which methods can


def coupled_otherwise(logps: PreferenceLogps, order: torch.Tensor) -> PreferenceLogps:
    """The same responses on either side; each chosen one stands beside another rejected one."""
    moved = {name: value[order] for name, value in vars(logps).items() if "rejected" in name}
    return dataclasses.replace(logps, **moved)


@every_method
@pytest.mark.parametrize("of_case", [False, True])
def test_a_method_takes_unpaired_responses_exactly_when_it_does_not_matter_who_stands_beside_whom(name, of_case):
    """By the loss of a batch and by its gradients; under the defaults, and with every hyperparameter set otherwise."""
    method = objective(name, **CASES[name].hyperparameters if of_case else {})
    one = with_gradient(random_logps(32))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    total, other = (method(logps).losses.sum() for logps in (one, coupled_otherwise(one, order)))
    assert close(other, total, rtol=1e-10) == takes_unpaired(OBJECTIVES[name])
    inputs = [value for field, value in vars(one).items() if field.startswith("policy")]
    slopes = [torch.autograd.grad(loss, inputs, materialize_grads=True) for loss in (total, other)]
    assert all(map(close, *slopes)) == takes_unpaired(OBJECTIVES[name])


def test_those_that_can_are_the_ones_that_are_named():
    assert {name for name, cls in OBJECTIVES.items() if takes_unpaired(cls)} == {
        "sft", "kto", "apo_zero", "simper", "nca", "sppo", "bco",
    }  # fmt: skip


# --- from a file to the loss


def rows(questions: list[str]) -> list[dict]:
    """One label a question in turn; the first question has both, and a second undesirable response."""
    found = [
        {"prompt": q, "response": "nobody" if i % 2 else "a dog", "label": bool(i % 2)} for i, q in enumerate(questions)
    ]
    return [*found, {"prompt": questions[0], "response": "you", "label": True},
            {"prompt": questions[0], "response": "a log", "label": False}]  # fmt: skip


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("unpaired"))
    data = write(
        world.home / "labelled", train=rows(QUESTIONS[:15]), iid=rows(QUESTIONS[15:20]), ood=rows(QUESTIONS[20:])
    )
    methods = f"method=[{','.join(METHODS)}]"
    return world.arguments(f"data.path={data}", methods, "~method.dpo.grid.beta", "tracking=none", "train.batch_size=4")


@pytest.fixture(scope="module")
def configuration(arguments):
    return configure(arguments)


@pytest.fixture(scope="module")
def shared(configuration, tmp_path_factory):
    return prepare(configuration, Store(tmp_path_factory.mktemp("artifacts")))


@pytest.fixture(scope="module")
def read(configuration):
    """The pairs as they are read."""
    return load(configuration.data).train


def loss_of(shared, configuration, method: str) -> PairLoss:
    spec = next(spec for spec in make_plan(configuration) if spec.method == method)
    return preference_loss(spec, shared)


def by_hand(policy, prompt: list[int], response: list[int]) -> float:
    """log π(y|x) of one sequence alone, by the model itself."""
    with torch.no_grad():
        logps = policy.model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
    return sum(logps[len(prompt) - 1 + t, token].item() for t, token in enumerate(response))


def test_rows_become_couples_across_prompts_and_a_prompt_with_both_labels_an_ordinary_pair(read):
    """Of 7 desirable and 8 undesirable ones, and both of the first question, one undesirable one is left out."""
    own, across = ([pair for pair in read if (pair.rejected_prompt is None) == alone] for alone in (True, False))
    assert [(pair.prompt, pair.chosen) for pair in own] == [(QUESTIONS[0], "you")]
    assert len(across) == 7
    assert all(pair.prompt != pair.rejected_prompt for pair in across)
    assert {pair.chosen for pair in across} == {"nobody"}
    assert {pair.rejected for pair in across} <= {"a dog", "a log"}


def test_each_side_has_the_tokens_of_its_own_prompt(shared, read):
    texts = shared.policy.texts
    asked = [pair.rejected_prompt or pair.prompt for pair in read]
    assert shared.pairs.prompts == texts.prompts([pair.prompt for pair in read], 48).rows
    assert shared.pairs.prompts_of("rejected") == texts.prompts(asked, 48).rows
    assert shared.pairs.rejected_prompts != shared.pairs.prompts


def test_token_lists_with_two_prompts_survive_their_file(shared, tmp_path):
    save_pairs(shared.pairs, tmp_path / "pairs.npz")
    assert load_pairs(tmp_path / "pairs.npz") == shared.pairs


def test_lengths_count_both_prompts(shared):
    pairs = shared.pairs
    expected = [
        len(pairs.prompts[i]) + len(pairs.rejected_prompts[i]) + len(pairs.chosen[i]) + len(pairs.rejected[i])
        for i in range(len(pairs))
    ]
    assert pairs.lengths().tolist() == expected


@pytest.fixture(scope="module")
def expected(shared):
    """log π of both sides after their own prompts, under the policy as trials start, which is the reference."""
    pairs = shared.pairs
    return {
        side: [by_hand(shared.policy, *each) for each in zip(pairs.prompts_of(side), getattr(pairs, side), strict=True)]
        for side in ("chosen", "rejected")
    }


@pytest.mark.parametrize("method", METHODS)
def test_responses_are_scored_after_their_own_prompts(shared, configuration, expected, method):
    """Whatever the order of a batch."""
    items = np.random.default_rng(0).permutation(len(shared.pairs))
    with torch.no_grad():
        found = loss_of(shared, configuration, method).forward(Batch(items, epoch=1))
    for side, logps in expected.items():
        assert found[f"policy_{side}_logps"].tolist() == near([logps[i] for i in items])
        assert getattr(shared.pair_logps, side).tolist() == near(logps)


def test_after_the_chosen_response_s_prompt_they_would_be_other_numbers(shared, expected):
    """The test above can fail."""
    pairs = shared.pairs
    different = [i for i in range(len(pairs)) if pairs.prompts[i] != pairs.rejected_prompts[i]]
    assert len(different) == 7
    for i in different:
        assert abs(by_hand(shared.policy, pairs.prompts[i], pairs.rejected[i]) - expected["rejected"][i]) > 1e-2


def test_held_out_pairs_are_scored_after_their_own_prompts_too(shared):
    for one in shared.evaluation:
        rejected = zip(one.pairs.prompts_of("rejected"), one.pairs.rejected, strict=True)
        assert one.reference.rejected.tolist() == near([by_hand(shared.policy, *each) for each in rejected])
        assert one.pairs.prompts == shared.policy.texts.prompts(one.prompts, 48).rows


@able
def test_how_responses_are_coupled_changes_no_step(name, shared, configuration):
    """The gradient of every weight, where the policy is no longer its reference."""
    one = loss_of(shared, configuration, "kto")
    order = np.random.default_rng(0).permutation(len(one.pairs))
    moved = dataclasses.replace(
        one.pairs, rejected=[one.pairs.rejected[i] for i in order],
        rejected_prompts=[one.pairs.prompts_of("rejected")[i] for i in order],
    )  # fmt: skip
    known = dataclasses.replace(one.reference, chosen=one.reference.chosen - 1, rejected=one.reference.rejected + 1)
    moved_known = dataclasses.replace(known, rejected=known.rejected[torch.from_numpy(order)])
    gradients = []
    for pairs, logps in ((one.pairs, known), (moved, moved_known)):
        loss = dataclasses.replace(one, objective=objective(name), pairs=pairs, reference=logps)
        batch = Batch(np.arange(len(pairs)), epoch=1)
        mean = loss.losses(batch, loss.forward(batch)).losses.mean()
        gradients.append(torch.autograd.grad(mean, list(trained(shared.policy).values()), allow_unused=True))
    for left, right in zip(*gradients, strict=True):
        assert_near(left, right)


def test_mismatched_responses_belong_to_other_prompts(shared):
    pairs, mismatched = shared.pairs, shared.pair_logps.mismatched
    answers = answers_of(pairs)
    for prompt, response, logp in zip(pairs.prompts, mismatched.responses, mismatched.logps.tolist(), strict=True):
        assert any(tuple(response) in said for other, said in answers.items() if other != tuple(prompt))
        assert logp == near(by_hand(shared.policy, prompt, response))


def answers_of(pairs: TokenPairs) -> dict[tuple[int, ...], set[tuple[int, ...]]]:
    """What was said to each prompt, on either side."""
    found: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for side in ("chosen", "rejected"):
        for prompt, response in zip(pairs.prompts_of(side), getattr(pairs, side), strict=True):
            found.setdefault(tuple(prompt), set()).add(tuple(response))
    return found


def test_a_rejected_response_to_the_very_prompt_is_no_mismatch(tmp_path, monkeypatch):
    """Prompt 1 is answered by the rejected sides of prompt 0's pairs: of these only the chosen ones are left for it."""
    pairs = TokenPairs(
        prompts=[[0]] * 16 + [[1]] * 16, chosen=[[10]] * 16 + [[11]] * 16, rejected=[[12]] * 16 + [[13]] * 16,
        rejected_prompts=[[1]] * 16 + [[1]] * 16,
    )  # fmt: skip
    monkeypatch.setattr(reference, "score_all", lambda _, prompts, __: torch.zeros(len(prompts)))
    reference.save_mismatched(None, pairs, tmp_path / "mismatched.npz")
    found = reference.load_mismatched(tmp_path / "mismatched.npz", pairs, torch.device("cpu")).responses
    assert {tuple(response) for response in found[:16]} == {(11,), (13,)}
    assert {tuple(response) for response in found[16:]} == {(10,)}


def test_ordinary_pairs_have_no_prompts_of_their_own(shared, read):
    ordinary = [pair for pair in read if pair.rejected_prompt is None]
    pairs, _ = encode_pairs(shared.policy.texts, ordinary, 48, 16)
    assert pairs.rejected_prompts is None
    assert pairs.prompts_of("rejected") is pairs.prompts


# --- through the command line


@pytest.fixture(scope="module")
def ran(arguments, tmp_path_factory):
    home = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return home, posweep(*arguments)


def test_such_methods_train_on_such_data(ran, configuration):
    home, said = ran
    assert said.code == 0, said
    plan = make_plan(configuration)
    results = Ledger(home / "outputs" / "own").finished(plan)
    assert {spec.method for spec in plan if results[spec.key].status == "finished"} == set(METHODS)
    for result in results.values():
        losses = [value for _, value in result.curves["loss"]]
        assert np.isfinite(losses).all()
        assert result.measures["iid/kl_to_sft"] > 0


def test_the_report_counts_what_was_left_out(ran):
    facts = json.loads((ran[0] / "outputs" / "own" / "sweep.json").read_text())["facts"]
    assert facts["data/train/pairs"] == 8
    assert facts["data/train/left out: undesirable"] == 1
