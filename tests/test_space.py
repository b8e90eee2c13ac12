"""Where a search may look: the ranges of what was planned, in their own scale and kind."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from posweep.errors import ConfigError
from posweep.search import _distribution
from posweep.space import spaces

from .tiny import configured, planned

BASE = ("sweep=smoke", "executor=local", "sweep.blocks=[]")


def found(*arguments):
    return spaces(configured((*BASE, *arguments)), planned((*BASE, *arguments)))


def blocks(*given):
    return f"sweep.blocks=[{', '.join(given)}]"


def test_a_recommended_grid_gives_its_ends_and_the_learning_rates():
    space = found("method=[dpo]", "sweep.learning_rates=[1e-4,1e-3]", "method.dpo.grid={beta: [0.3, 0.05, 0.1]}")["dpo"]
    assert {name: axis.ends for name, axis in space.axes.items()} == {
        "beta": (0.05, 0.3),
        "learning_rate": (1e-4, 1e-3),
    }
    assert all(axis.log for axis in space.axes.values())


def test_the_blocks_of_a_method_are_one_space_and_what_a_block_does_not_say_is_the_default():
    space = found(
        "method=[dpo]", "train.learning_rate=5e-3",
        blocks("{method: dpo, grid: {beta: [0.1, 0.2]}}", "{method: dpo, list: [{learning_rate: 1e-3, beta: 0.4}]}"),
    )["dpo"]  # fmt: skip
    assert {name: axis.ends for name, axis in space.axes.items()} == {"beta": (0.1, 0.4), "learning_rate": (1e-3, 5e-3)}


def test_points_that_were_drawn_leave_their_whole_space():
    space = found(
        "method=[simpo]",
        blocks("{method: simpo, qmc: {points: 2, space: {beta: {low: 1, high: 9}, gamma: {low: 1, high: 2, log: true}}}}"),
    )["simpo"]  # fmt: skip
    assert {name: axis.ends for name, axis in space.axes.items()} == {"beta": (1.0, 9.0), "gamma": (1.0, 2.0)}
    assert space.axes["gamma"].log


def test_every_kind_of_value_has_its_distribution():
    space = found(
        "method=[dpo]",
        blocks("{method: dpo, grid: {beta: [0.1, 0.2], batch_size: [16, 32], schedule: [linear, cosine], epochs: [2],"
               " warmup_ratio: [0.0, 0.1]}}"),
    )["dpo"]  # fmt: skip
    kinds = {name: _distribution(axis) for name, axis in space.axes.items()}
    assert kinds == {
        "beta": FloatDistribution(0.1, 0.2, log=True),
        "batch_size": IntDistribution(16, 32),
        "schedule": CategoricalDistribution(("linear", "cosine")),
        "warmup_ratio": FloatDistribution(0.0, 0.1),
    }
    assert space.fixed == {"epochs": 2.0}


def test_a_log_axis_that_holds_zero_is_linear():
    space = found("method=[r_dpo]", blocks("{method: r_dpo, grid: {alpha: [0, 0.05]}}"))["r_dpo"]
    assert not space.axes["alpha"].log


def test_values_are_rounded_within_the_axis_and_whole_ones_stay_whole():
    space = found("method=[dpo]", blocks("{method: dpo, grid: {beta: [0.1234564, 0.3], batch_size: [16, 32]}}"))["dpo"]
    assert space.point({"beta": 0.1666666666, "batch_size": 17}) == {"beta": 0.166667, "batch_size": 17}
    assert space.point({"beta": 0.12345641, "batch_size": 17})["beta"] == 0.1234564


def test_a_method_of_one_point_is_left_out():
    one = blocks("{method: dpo, list: [{beta: 0.1}]}")
    assert list(found("method=[dpo,simpo]", one, "sweep.learning_rates=[1e-3,1e-2]")) == ["simpo"]


def test_nothing_to_search_and_ends_that_are_no_values_are_sentences():
    with pytest.raises(ConfigError) as nothing:
        found("method=[dpo]", blocks("{method: dpo, list: [{beta: 0.1}]}"))
    assert nothing.value.problems == (
        "search: no selected method has anything that varies; give a block of one at least two points, or leave search=tpe "
        "out.",
    )
    with pytest.raises(ConfigError) as ends:
        found("method=[dpo]", blocks("{method: dpo, random: {points: 1, space: {beta: {low: 0, high: 1}}}}"))
    assert ends.value.problems == (
        "sweeps/smoke.yaml → blocks[0].random.space.beta.low: β must be > 0, got 0.0.",
    )  # fmt: skip
