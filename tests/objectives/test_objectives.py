"""Every method through every test: a row in `cases.py` is all it takes."""

import dataclasses
import inspect
import itertools
import math
import pickle
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
from omegaconf import OmegaConf

from posweep.config import configure
from posweep.errors import ShapeError
from posweep.fields import range_problems
from posweep.objectives import OBJECTIVES, PreferenceLogps, hyperparameters, needs

from . import cases
from .cases import CASES
from .inputs import (
    FIELDS,
    OPTIONAL,
    OUTPUTS,
    at_reference,
    both_alike,
    close,
    logps_of,
    objective,
    part,
    random_logps,
    slopes,
    with_gradient,
    without,
)

CONF = Path(__file__).parents[2] / "conf" / "method"

every_method = pytest.mark.parametrize("name", OBJECTIVES)


def of_case(name: str, **changed: float):
    """The objective with the hyperparameters of its row."""
    return objective(name, **{**CASES[name].hyperparameters, **changed})


def at_rest(name: str):
    """The objective where nothing is gained."""
    return of_case(name, **CASES[name].at_rest.hyperparameters)


def given_in(name: str) -> list[str]:
    """The optional inputs that a row has: those that its method needs."""
    return [field for field in OPTIONAL if getattr(logps_of(CASES[name]), field) is not None]


# --- the formula


def test_every_method_has_a_row_and_a_file():
    assert list(CASES) == list(OBJECTIVES)
    assert {file.stem for file in CONF.glob("*.yaml")} == set(OBJECTIVES)


@every_method
def test_every_row_is_derived_and_sets_every_hyperparameter_to_something_else(name):
    """A hyperparameter at its default would not show whether it is read."""
    assert inspect.getdoc(getattr(cases, name))
    assert set(CASES[name].hyperparameters) == set(hyperparameters(OBJECTIVES[name]))
    assert not CASES[name].hyperparameters.items() & dataclasses.asdict(objective(name)).items()


@every_method
def test_losses_and_rewards_are_those_derived_by_hand(name):
    found, case = of_case(name)(logps_of(CASES[name])), CASES[name]
    assert close(found.losses, case.losses)
    assert close(found.chosen_rewards, case.rewards[0])
    assert close(found.rejected_rewards, case.rewards[1])


@every_method
def test_where_nothing_is_gained(name):
    """At policy = reference or, without a reference, for two responses alike."""
    case, free = CASES[name].at_rest, OBJECTIVES[name].reference_free
    logps = both_alike(random_logps()) if free else at_reference(random_logps())
    found = at_rest(name)(logps)
    assert close(found.losses, case.loss(logps) if callable(case.loss) else case.loss)
    if free:
        assert torch.equal(found.chosen_rewards, found.rejected_rewards)
    else:
        chosen, rejected = case.rewards(logps) if case.rewards else torch.zeros(2, 8)
        assert close(found.chosen_rewards, chosen)
        assert close(found.rejected_rewards, rejected)


@every_method
def test_the_signs_of_gradients_at_the_reference(name):
    """And which inputs carry gradient at all: reference points and weights must not."""
    logps = at_reference(with_gradient(random_logps(pairs=32)))
    found = slopes(at_rest(name)(logps), logps)
    assert {side: set(gradient.sign().tolist()) for side, gradient in found.items()} == CASES[name].signs


@every_method
def test_gradients_are_those_of_finite_differences(name):
    """What a method detaches is no function of its input: it stays at its value while the input is moved."""
    logps = random_logps(pairs=4)
    moved = [f"policy_{side}_logps" for side in CASES[name].signs]
    inputs = [getattr(logps, field).clone().requires_grad_() for field in moved]

    def losses(*values):
        return of_case(name)(dataclasses.replace(logps, **dict(zip(moved, values, strict=True)))).losses

    assert min(slope.abs().max() for slope in torch.autograd.grad(losses(*inputs).sum(), inputs)) > 1e-3
    assert torch.autograd.gradcheck(holding_detached(losses, *inputs), inputs, rtol=1e-6, atol=1e-8)


def holding_detached(function, *inputs):
    """The same function of other inputs, but with whatever it detaches as it is at these."""
    detach, held = torch.Tensor.detach, []

    def record(tensor):
        held.append(detach(tensor))
        return held[-1]

    def replayed(*values):
        with patch.object(torch.Tensor, "detach", Mock(side_effect=held)):
            return function(*values)

    with patch.object(torch.Tensor, "detach", record):
        function(*inputs)
    return replayed


# --- robust at the ends


VALUES, LENGTHS = (0.0, -1.0, -1e4), (1.0, 100.0)
NATS_PER_TOKEN = 12.0
"""log of a large vocabulary: Σ_v π(v)² is no less than one over it."""


def extremes(name: str) -> PreferenceLogps:
    """All combinations of log-probs in {0, −1, −10⁴}, lengths 1 and 100, and extras at the ends of what they can be.

    Lengths change fastest: four rows after one another differ in them only.
    """
    extras = [field for field in given_in(name) if field not in FIELDS[:6]]
    choices = [VALUES if "mismatched" in field else (0.0, 1.0) for field in extras]
    rows = torch.tensor(list(itertools.product(*[VALUES] * 4, *choices, LENGTHS, LENGTHS)))
    columns = dict(zip([*FIELDS[:2], *FIELDS[4:6], *extras, *FIELDS[2:4]], rows.T, strict=True))
    for field in extras:
        if "common" in field:  # none or all of the whole sum
            columns[field] = columns[field] * columns[field.replace("_common", "")]
        elif "collision" in field:  # π_y² ≤ Σ_v π(v)² ≤ 1 at each token
            side = field.split("_")[1]
            least = torch.maximum(2 * columns[f"policy_{side}_logps"], -NATS_PER_TOKEN * columns[f"{side}_lengths"])
            columns[field] = columns[field] * least
    return PreferenceLogps(**columns)


def ends(name: str) -> list[dict[str, float]]:
    """The defaults, every combination of least and largest values of the recommended grid, and the ends of each range."""
    grid = written(name)["grid"]
    combinations = itertools.product(*({min(values), max(values)} for values in grid.values()))
    known = hyperparameters(OBJECTIVES[name]).items()
    bounds = [{axis: end} for axis, about in known for end in (about.at_least, about.at_most) if math.isfinite(end)]
    return [{}, *(dict(zip(grid, point, strict=True)) for point in combinations), *bounds]


@every_method
def test_loss_rewards_and_gradient_are_finite_for_any_log_probability(name):
    """In float32. What looks at the whole batch also sees batches of nothing but one combination."""
    rows = extremes(name)
    alone = [slice(i, i + 4) for i in range(0, len(rows.chosen_lengths), 4)]
    batches = [slice(None), *([] if OBJECTIVES[name].separable else alone)]
    for hyperparameter, batch in itertools.product(ends(name), batches):
        logps = with_gradient(part(rows, batch))
        found = objective(name, **hyperparameter)(logps)
        for tensor in (*vars(found).values(), *slopes(found, logps).values()):
            assert tensor.dtype == torch.float32
            assert tensor.isfinite().all(), hyperparameter


# --- the batch


@every_method
def test_separable_says_whether_pairs_look_at_each_other(name):
    """A batch is then the mean of its parts, and more: each pair has its loss and its gradient alone."""
    logps = with_gradient(random_logps())
    found = of_case(name)(logps)
    parts = [of_case(name)(part(logps, rows)) for rows in (slice(0, 3), slice(3, 8))]
    assert close(torch.cat([part.losses for part in parts]), found.losses) == OBJECTIVES[name].separable
    assert close(sum(part.losses.sum() for part in parts), found.losses.sum()) == OBJECTIVES[name].separable


@every_method
@pytest.mark.parametrize("pairs", [1, 3])
def test_losses_and_rewards_are_one_per_pair(name, pairs):
    """A (pairs,) term against a (pairs, 1) one would make a square of it."""
    found = of_case(name)(random_logps(pairs))
    assert {tuple(getattr(found, output).shape) for output in OUTPUTS} == {(pairs,)}


@every_method
def test_the_order_of_pairs_does_not_matter(name):
    logps, order = random_logps(), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    found, permuted = of_case(name)(logps), of_case(name)(part(logps, order))
    for output in OUTPUTS:
        assert close(getattr(permuted, output), getattr(found, output)[order])


@every_method
def test_losses_carry_gradient_and_rewards_do_not(name):
    found = of_case(name)(logps_of(CASES[name]))
    assert [getattr(found, output).requires_grad for output in OUTPUTS] == [True, False, False]


# --- what is read, and what is refused


NEEDS = {
    "mismatched": {"policy_mismatched_logps", "reference_mismatched_logps"},
    "sampled": {field for field in FIELDS if "common" in field},
    "shared": {field for field in FIELDS if "common" in field},
    "collisions": {"policy_chosen_collision_logps", "policy_rejected_collision_logps"},
}


@every_method
def test_the_class_says_what_its_method_needs(name):
    found, cls = set(given_in(name)), OBJECTIVES[name]
    assert found - set(FIELDS[4:6]) == set().union(*(NEEDS[need] for need in needs(cls)))
    assert cls.reference_free == (not any(field.startswith("reference") for field in found))


@every_method
def test_what_a_method_does_not_need_it_does_not_read(name):
    logps, needless = random_logps(), [field for field in OPTIONAL if field not in given_in(name)]
    strange = dataclasses.replace(logps, **dict.fromkeys(needless, torch.full((8,), math.nan)))
    found, expected = of_case(name)(strange), of_case(name)(without(logps, *needless))
    assert all(torch.equal(getattr(found, output), getattr(expected, output)) for output in OUTPUTS)


@every_method
def test_what_a_method_needs_is_asked_for_by_name_and_shape(name):
    for field in given_in(name):
        with pytest.raises(
            ShapeError, match=rf"^{field} is missing: .* shape \(8,\), the shape of policy_chosen_logps"
        ):
            of_case(name)(without(random_logps(), field))


@pytest.mark.parametrize("wrong", FIELDS[1:])
@pytest.mark.parametrize("shape", [(8, 1), (1,), (), (7,)])
def test_a_field_of_another_shape_is_refused_with_both_shapes(wrong, shape):
    with pytest.raises(ShapeError) as error:
        dataclasses.replace(random_logps(), **{wrong: torch.ones(shape)})
    assert f"{wrong} has shape {shape} where policy_chosen_logps has (8,)" in str(error.value)


@pytest.mark.parametrize("shape", [(8, 1), (), (2, 4)])
def test_a_batch_that_is_no_vector_of_pairs_is_refused(shape):
    with pytest.raises(ShapeError, match=r"policy_chosen_logps must have shape \(pairs,\), got \("):
        dataclasses.replace(random_logps(), policy_chosen_logps=torch.zeros(shape))


# --- a value, and its file


def written(name: str) -> dict:
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))


@every_method
def test_an_objective_is_a_value(name):
    one, same = of_case(name), of_case(name)
    assert one == same == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(same)
    for field in [*hyperparameters(OBJECTIVES[name]), "anything"]:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(one, field, 1.0)


@every_method
def test_every_hyperparameter_says_its_symbol_source_and_range(name):
    for hyperparameter, known in hyperparameters(OBJECTIVES[name]).items():
        assert known.symbol, hyperparameter
        assert known.source, hyperparameter
        assert known.rule(), hyperparameter
        assert not known.allows(-100), hyperparameter
    assert range_problems(OBJECTIVES[name], vars(objective(name)), name) == []
    assert range_problems(OBJECTIVES[name], vars(of_case(name)), name) == []


@every_method
def test_the_file_of_a_method_has_its_defaults_and_a_valid_grid(name):
    """Four points for every method that has hyperparameters: no method is searched harder than another."""
    file = written(name)
    assert file["hyperparameters"] == dataclasses.asdict(objective(name))
    assert set(file["grid"]) <= set(hyperparameters(OBJECTIVES[name]))
    assert range_problems(OBJECTIVES[name], file["grid"], name) == []
    assert all(len(set(values)) == len(values) for values in file["grid"].values())
    points = math.prod(len(values) for values in file["grid"].values())
    assert points == (4 if hyperparameters(OBJECTIVES[name]) else 1)


def test_every_file_composes_beside_all_others():
    together = configure(["sweep=smoke", f"method=[{','.join(OBJECTIVES)}]"]).methods
    for name in OBJECTIVES:
        assert dict(together[name].hyperparameters) == dataclasses.asdict(objective(name))
        assert {axis: list(values) for axis, values in together[name].grid.items()} == written(name)["grid"]
