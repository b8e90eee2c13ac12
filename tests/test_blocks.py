"""A block → its points, and a sentence for every mistake in one."""

import math
import warnings

import pytest

from posweep.blocks import PRIORS, SHARED
from posweep.errors import ConfigError
from posweep.objectives import OBJECTIVES
from posweep.plan import make_plan
from posweep.settings import (
    Configuration,
    DemoData,
    EvaluationSettings,
    ExecutorSettings,
    GoldJudgeSettings,
    MethodSettings,
    SampleSettings,
    ScratchModel,
    SweepSettings,
    TrackingSettings,
    TrainSettings,
)

DPO_TAKES = "it takes beta (β), gamma (γ)"
AXIS = {"low": 0.01, "high": 1.0, "log": True}


def plan_of(*blocks: dict, methods=("dpo",), grid=None, **sweep):
    """The plan of a sweep with these blocks over the demo world."""
    settings = {name: MethodSettings(vars(OBJECTIVES[name]()), grid or {"beta": (0.5,)}) for name in methods}
    return make_plan(
        Configuration(
            SweepSettings("test", blocks=blocks, source="sweeps/test.yaml", **sweep), settings, ScratchModel(),
            DemoData(), EvaluationSettings(), TrainSettings(), SampleSettings(), {"gold": GoldJudgeSettings()},
            ExecutorSettings(), TrackingSettings(),
        )
    )  # fmt: skip


def values(plan, *names: str) -> list:
    """The trials' values of some names, in order."""
    everything = [{**spec.train, **spec.hyperparameters} for spec in plan]
    return [tuple(v[name] for name in names) if len(names) > 1 else v[names[0]] for v in everything]


def problems(*blocks: dict, **plan) -> list[str]:
    with pytest.raises(ConfigError) as error:
        plan_of(*blocks, **plan)
    return list(error.value.problems)


def test_a_grid_is_every_combination_with_the_last_axis_fastest():
    plan = plan_of({"method": "dpo", "grid": {"beta": [0.3, 0.1], "learning_rate": [1e-4, 1e-3, 1e-2]}})
    assert values(plan, "beta", "learning_rate") == [
        (0.3, 1e-4), (0.3, 1e-3), (0.3, 1e-2), (0.1, 1e-4), (0.1, 1e-3), (0.1, 1e-2),
    ]  # fmt: skip
    assert {spec.varied for spec in plan} == {("beta", "learning_rate")}


def test_a_list_is_its_points_and_what_a_point_leaves_out_keeps_its_default():
    plan = plan_of({"method": "dpo", "list": [{"beta": 0.3}, {"gamma": 0.5, "epochs": 2}]})
    assert values(plan, "beta", "gamma", "epochs") == [(0.3, 0.0, 1.0), (0.1, 0.5, 2.0)]
    assert [spec.varied for spec in plan] == [("beta",), ("gamma", "epochs")]


def test_a_sum_of_products_is_one_block_after_another():
    plan = plan_of(
        {"method": "simpo", "grid": {"gamma": [0.5, 1.0]}},
        {"method": "dpo", "grid": {"beta": [0.3]}},
        {"method": "dpo", "list": [{"beta": 0.9}]},
        methods=("dpo", "simpo"),
    )
    assert [(spec.method, spec.block) for spec in plan] == [("simpo", 0), ("simpo", 0), ("dpo", 1), ("dpo", 2)]


def test_a_method_without_a_block_brings_its_recommended_grid():
    plan = plan_of({"method": "dpo", "list": [{"beta": 0.3}]}, methods=("dpo", "simpo"), grid={"beta": (1.0, 2.0)})
    found = [(s.method, s.hyperparameters["beta"], s.train["learning_rate"], s.prior, s.block) for s in plan]
    axis = SweepSettings().learning_rates
    own = [("simpo", beta, rate, "recommended", 1) for beta in (1.0, 2.0) for rate in axis]
    assert found == [("dpo", 0.3, TrainSettings().learning_rate, "custom", 0), *own]


def test_a_grid_with_a_learning_rate_keeps_its_own():
    assert values(plan_of(grid={"learning_rate": (5e-5,)}), "learning_rate") == [5e-5]


@pytest.mark.parametrize("kind", ["random", "qmc"])
def test_draws_are_reproducible_by_seed_in_range_and_readable(kind):
    def drawn(seed: int) -> list:
        space = {"beta": AXIS, "learning_rate": {"low": 1e-4, "high": 1e-3}, "epochs": {"choices": [1, 2]}}
        content = {"points": 8, "seed": seed, "space": space}
        return values(plan_of({"method": "dpo", kind: content}), "beta", "learning_rate", "epochs")

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 8
    for beta, rate, epochs in drawn(1):
        assert 0.01 <= beta <= 1
        assert 1e-4 <= rate <= 1e-3
        assert epochs in (1.0, 2.0)
        assert (float(f"{beta:.6g}"), float(f"{rate:.6g}")) == (beta, rate)


def test_a_log_axis_spends_as_many_points_on_every_decade():
    content = {"points": 400, "seed": 0, "space": {"beta": AXIS}}
    below = sum(beta < 0.1 for beta in values(plan_of({"method": "dpo", "random": content}), "beta"))
    assert below == pytest.approx(200, abs=4 * math.sqrt(400 / 4))
    linear = {"points": 400, "seed": 0, "space": {"beta": {"low": 0.01, "high": 1.0}}}
    assert sum(beta < 0.1 for beta in values(plan_of({"method": "dpo", "random": linear}), "beta")) < 80


@pytest.mark.parametrize("seed", range(3))
def test_qmc_puts_one_of_sixteen_points_into_each_sixteenth_of_every_axis(seed):
    """A scrambled Sobol sequence of 2ᵏ points is stratified along each axis; draws at random are not."""
    axes = {"beta": AXIS, "learning_rate": {"low": 1e-4, "high": 1e-3, "log": True}}
    content = {"points": 16, "seed": seed, "space": axes}
    plan = plan_of({"method": "dpo", "qmc": content})
    for name, axis in axes.items():
        decades = math.log(axis["high"] / axis["low"])
        assert sorted(int(16 * math.log(v / axis["low"]) / decades) for v in values(plan, name)) == list(range(16))


def test_blocks_draw_different_points_unless_a_seed_says_otherwise():
    block = {"method": "dpo", "random": {"points": 3, "space": {"beta": AXIS}}}
    seeded = {"method": "dpo", "random": {**block["random"], "seed": 7}}
    assert len(plan_of(block, block)) == 6
    assert len(plan_of(seeded, seeded)) == 3


@pytest.mark.parametrize("kind", ["random", "qmc"])
def test_a_block_draws_the_same_points_whatever_else_is_selected(kind):
    """`method=[simpo]` keeps that method's trials: none may be trained again for want of the others."""
    drawn = {"points": 4, "space": {"beta": AXIS}}
    sweep = ({"method": "dpo", "grid": {"beta": [0.5]}}, {"method": "simpo", kind: drawn})
    everything = {spec.key for spec in plan_of(*sweep, methods=("dpo", "simpo"))}
    assert {spec.key for spec in plan_of(*sweep, methods=("simpo",))} < everything


@pytest.mark.parametrize("kind", ["random", "qmc"])
def test_drawing_warns_of_nothing(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(plan_of({"method": "dpo", kind: {"points": 2, "space": {"beta": AXIS}}})) == 2


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_block_may_vary_every_shared_training_setting(name):
    value = {"schedule": "cosine", "prefix_sharing": True}.get(
        name, 0.5 if name in ("adam_beta2", "warmup_ratio") else 2
    )
    plan = plan_of({"method": "dpo", "grid": {name: [value]}})
    assert plan.trials[0].train[name] == value


@pytest.mark.parametrize("name", ["threads", "micro_batch_size", "evaluate_at"])
def test_a_block_may_not_vary_what_is_no_science(name):
    assert DPO_TAKES in problems({"method": "dpo", "grid": {name: [1]}})[0]


@pytest.mark.parametrize("prior", PRIORS)
def test_a_block_names_its_prior(prior):
    assert plan_of({"method": "dpo", "prior": prior, "grid": {"beta": [0.1]}}).trials[0].prior == prior


METHODS = ", ".join(OBJECTIVES)
PLACE = "sweeps/test.yaml → blocks[0]"
MISTAKES = {
    "unknown hyperparameter": (
        {"method": "dpo", "grid": {"lambda": [1]}}, f"{PLACE}.grid: DPO has no hyperparameter 'lambda'; {DPO_TAKES}",
    ),
    "unknown hyperparameter in a list": (
        {"method": "dpo", "list": [{"lambda": 1}]}, f"{PLACE}.list: DPO has no hyperparameter 'lambda'; {DPO_TAKES}",
    ),
    "unknown hyperparameter in a space": (
        {"method": "dpo", "random": {"points": 3, "space": {"lambda": AXIS}}},
        f"{PLACE}.random: DPO has no hyperparameter 'lambda'; {DPO_TAKES}",
    ),
    "out of range": ({"method": "dpo", "grid": {"beta": [0.0, 1]}}, f"{PLACE}.grid.beta[0]: β must be > 0, got 0.0."),
    "out of range, second": (
        {"method": "dpo", "grid": {"gamma": [0, -1.5]}}, f"{PLACE}.grid.gamma[1]: γ must be >= 0, got -1.5.",
    ),
    "out of range in a list": (
        {"method": "dpo", "list": [{"beta": 1}, {"beta": -2}]}, f"{PLACE}.list[1].beta: β must be > 0, got -2.0.",
    ),
    "shared setting out of range": (
        {"method": "dpo", "grid": {"epochs": [0]}}, f"{PLACE}.grid.epochs[0]: epochs must be > 0, got 0.0.",
    ),
    "wrong type": (
        {"method": "dpo", "grid": {"beta": [0.1, "x"]}}, f"{PLACE}.grid.beta[1]: β must be a number, got 'x'.",
    ),
    "no whole number": (
        {"method": "dpo", "grid": {"batch_size": [8.5]}},
        f"{PLACE}.grid.batch_size[0]: batch_size must be a whole number, got 8.5.",
    ),
    "wrong word": (
        {"method": "dpo", "grid": {"schedule": ["steps"]}},
        f"{PLACE}.grid.schedule[0]: schedule must be one of constant, linear, cosine, got 'steps'.",
    ),
    "empty axis": (
        {"method": "dpo", "grid": {"beta": []}}, f"{PLACE}.grid.beta: must be a list with at least one value, got [].",
    ),
    "axis is no list": (
        {"method": "dpo", "grid": {"beta": 0.1}}, f"{PLACE}.grid.beta: must be a list with at least one value, got 0.1.",
    ),
    "empty grid": ({"method": "dpo", "grid": {}}, f"{PLACE}.grid: "),
    "grid is no mapping": ({"method": "dpo", "grid": [1]}, f"{PLACE}.grid: "),
    "empty list": ({"method": "dpo", "list": []}, f"{PLACE}.list: must be a list of points with at least one, got []."),
    "list of numbers": ({"method": "dpo", "list": [3]}, f"{PLACE}.list: cannot be read"),
    "no points": (
        {"method": "dpo", "qmc": {"points": 0, "space": {"beta": AXIS}}}, f"{PLACE}.qmc: needs points ≥ 1 and a space",
    ),
    "empty space": (
        {"method": "dpo", "random": {"points": 1, "space": {}}}, f"{PLACE}.random: needs points ≥ 1 and a space",
    ),
    "no space": ({"method": "dpo", "random": {"points": 1}}, f"{PLACE}.random: cannot be read ('space')"),
    "logarithm of zero": (
        {"method": "dpo", "random": {"points": 1, "space": {"beta": {"low": 0, "high": 1, "log": True}}}},
        f"{PLACE}.random: cannot be read (`low > 0` must hold",
    ),
    "drawn out of range": (
        {"method": "dpo", "random": {"points": 1, "space": {"beta": {"low": -2, "high": -1}}}},
        f"{PLACE}.random.space.beta: β must be > 0, got -1.",
    ),
    "no kind": ({"method": "dpo"}, f"{PLACE}: needs exactly one of grid, list, random, qmc."),
    "two kinds": (
        {"method": "dpo", "grid": {"beta": [1]}, "list": [{"beta": 1}]},
        f"{PLACE}: needs exactly one of grid, list, random, qmc.",
    ),
    "unknown method": (
        {"method": "dpoo", "grid": {"beta": [1]}},
        f"{PLACE}.method: 'dpoo' is no method; there are {METHODS}.",
    ),
    "no method": ({"grid": {"beta": [1]}}, f"{PLACE}.method: None is no method; there are {METHODS}."),
    "method is a list": ({"method": ["dpo"], "grid": {"beta": [1]}}, f"{PLACE}.method: ['dpo'] is no method"),
    "unknown entry": (
        {"method": "dpo", "gird": {"beta": [1]}, "grid": {"beta": [1]}},
        f"{PLACE}.gird: no such entry; a block takes method, prior, grid, list, random, qmc.",
    ),
    "unknown prior": (
        {"method": "dpo", "prior": "mine", "grid": {"beta": [1]}},
        f"{PLACE}.prior: 'mine' is no prior; there are recommended, published, matched, custom.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("block", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_block_becomes_one_sentence(block, sentence):
    (found,) = problems(block)
    assert found.startswith(sentence)
    assert found.endswith(".")


def test_all_mistakes_of_all_blocks_come_at_once():
    found = problems(
        {"method": "dpo", "grid": {"beta": [0.0, -1], "lambda": [1]}},
        {"method": "simpo", "list": [{"gamma": "x"}]},
        methods=("dpo", "simpo"),
    )
    assert len(found) == 4
    assert [sentence.partition(":")[0] for sentence in found if "blocks[1]" in sentence] == [
        "sweeps/test.yaml → blocks[1].list[0].gamma"
    ]


def test_a_mistake_in_a_recommended_grid_names_the_file_of_the_method():
    assert problems(grid={"beta": (0.0,)}) == ["conf/method/dpo.yaml → grid.beta[0]: β must be > 0, got 0.0."]
