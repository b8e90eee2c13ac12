"""Against explicit indices, closed forms, statsmodels, and worlds whose truth is known."""

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from posweep.errors import ShapeError
from posweep.robustness import (
    Sample,
    configuration_scores,
    crossed_interval,
    holm,
    p_value,
    run_scores,
    with_scores,
)
from posweep.robustness.crossed import variances, what_was_drawn

NAN = math.nan


def scores(configurations=4, seeds=3, prompts=7, lost=()):
    """A table of noise, without the runs (configuration, seed) that were lost."""
    table = np.random.default_rng(3).random((configurations, seeds, prompts))
    for run in lost:
        table[run] = NAN
    return table


def of_mean(table):
    return lambda sample: configuration_scores(table, sample).mean(axis=1)


# --- samples


@pytest.mark.parametrize(
    ("kind", "drawn", "kept"), [("of_seeds", "seeds", "prompts"), ("of_prompts", "prompts", "seeds")]
)
def test_a_sample_draws_one_axis_and_keeps_the_other(kind, drawn, kept):
    sample = getattr(Sample, kind)(np.random.default_rng(0), 3, 7, 500)
    counts = getattr(sample, drawn) * getattr(sample, drawn).shape[1]
    assert counts.sum(axis=1) == pytest.approx(counts.shape[1])
    assert counts == pytest.approx(np.rint(counts))
    assert counts.std() > 0.5
    even = getattr(sample, kept)
    assert even == pytest.approx(1 / even.shape[1])


def test_everything_is_the_plain_mean():
    table = scores()
    sample = Sample.everything(3, 7)
    assert configuration_scores(table, sample)[0] == pytest.approx(table.mean(axis=(1, 2)))
    assert run_scores(table, sample.prompts)[0] == pytest.approx(table.mean(axis=2))


def test_brute_force_with_the_indices_that_were_drawn():
    table = scores(lost=[(1, 0), (1, 2), (3, 1)])
    rng = np.random.default_rng(1)
    seeds, prompts = rng.integers(3, size=(200, 3)), rng.integers(7, size=(200, 7))
    sample = Sample(counted(seeds, 3), counted(prompts, 7))
    expected = [[one_score(row, drawn, at) for row in table] for drawn, at in zip(seeds, prompts, strict=True)]
    assert configuration_scores(table, sample) == pytest.approx(np.array(expected))


def counted(indices, count):
    """How often each was drawn, as weights."""
    return (indices[:, :, None] == np.arange(count)).mean(axis=1)


def one_score(row, seeds, prompts):
    """The mean over the drawn seeds that finished, or over all that did where none of them was drawn."""
    finished = [j for j in seeds if not math.isnan(row[j, 0])] or [j for j in range(3) if not math.isnan(row[j, 0])]
    return np.mean([row[j, p] for j in finished for p in prompts])


def test_a_configuration_that_never_finished_has_no_score_and_is_dropped():
    table = scores(lost=[(2, slice(None)), (0, 1)])
    found = configuration_scores(table, Sample.of_seeds(np.random.default_rng(0), 3, 7, 20))
    assert np.isnan(found[:, 2]).all()
    assert np.isfinite(np.delete(found, 2, axis=1)).all()
    assert len(with_scores(table)) == 3


def test_a_table_of_another_shape_is_named():
    with pytest.raises(ShapeError, match=r"\(configurations, seeds, prompts\), got \(4, 3\)"):
        with_scores(np.zeros((4, 3)))


# --- intervals


def test_with_one_seed_the_interval_of_a_mean_is_students_over_prompts():
    table = scores(seeds=1, prompts=40)
    by_prompt = table[:, 0].mean(axis=0)
    expected = stats.t.interval(0.95, 39, by_prompt.mean(), by_prompt.std(ddof=1) / math.sqrt(40))
    found = crossed_interval(of_mean(table), 1, 40, np.random.default_rng(0), replicates=40_000)
    assert (found.value, found.freedom) == (pytest.approx(by_prompt.mean()), pytest.approx(39))
    assert (found.low, found.high) == (pytest.approx(expected[0], abs=1e-3), pytest.approx(expected[1], abs=1e-3))
    assert "40 prompts, given this seed" in found.over


def test_with_one_prompt_it_is_students_over_seeds():
    table = scores(seeds=4, prompts=1)
    by_seed = table[:, :, 0].mean(axis=0)
    expected = stats.t.interval(0.95, 3, by_seed.mean(), by_seed.std(ddof=1) / 2)
    found = crossed_interval(of_mean(table), 4, 1, np.random.default_rng(0), replicates=40_000)
    assert (found.low, found.high) == (pytest.approx(expected[0], rel=0.02), pytest.approx(expected[1], rel=0.02))


def test_the_error_of_a_mean_is_that_of_the_crossed_anova_by_hand():
    """Var(mean) = MS(seeds)/SP + MS(prompts)/SP − MS(seeds × prompts)/SP, and ν is Satterthwaite's."""
    table = scores(seeds=5, prompts=30) + np.random.default_rng(4).normal(0, 0.1, (1, 5, 1))
    means = table.mean(axis=0)
    seeds, prompts = means.mean(axis=1), means.mean(axis=0)
    rest = means - seeds[:, None] - prompts + means.mean()
    parts = seeds.var(ddof=1) / 5, prompts.var(ddof=1) / 30, (rest**2).sum() / (4 * 29) / (5 * 30)
    total = parts[0] + parts[1] - parts[2]
    freedom = total**2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 29)
    found = crossed_interval(of_mean(table), 5, 30, np.random.default_rng(0), replicates=40_000)
    split = variances(of_mean(table), 5, 30, np.random.default_rng(0), replicates=40_000)
    assert (split.seeds, split.prompts, split.both) == pytest.approx(parts, rel=0.03)
    assert found.error == pytest.approx(math.sqrt(total), rel=0.01)
    assert found.freedom == pytest.approx(freedom, rel=0.05)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, found.freedom) * found.error)


def test_luck_that_all_configurations_share_does_not_average_away():
    """A hundred configurations that all move with the seed are as unsure as one."""
    luck = np.random.default_rng(0).normal(size=(1, 10, 1))
    one, many = np.broadcast_to(luck, (1, 10, 5)), np.broadcast_to(luck, (100, 10, 5))
    errors = [crossed_interval(of_mean(table), 10, 5, np.random.default_rng(1)).error for table in (one, many)]
    assert errors[1] == pytest.approx(errors[0])
    assert errors[0] == pytest.approx(luck.std(ddof=1) / math.sqrt(10), rel=0.1)


def test_a_statistic_may_have_any_shape_and_parts_of_it_are_intervals():
    table = scores()
    whole = crossed_interval(lambda s: configuration_scores(table, s), 3, 7, np.random.default_rng(0))
    assert whole.value.shape == (4,)
    assert (whole[2].low, whole[2].over) == (whole.low[2], whole.over)


def test_what_seeds_and_prompts_both_hold_counts_once():
    """Scores that are all luck of single responses: the error is near that of all of them, well below √2 times it."""
    rng = np.random.default_rng(0)
    found = [
        crossed_interval(of_mean(rng.normal(size=(1, 8, 40))), 8, 40, np.random.default_rng(1), 200) for _ in range(200)
    ]
    assert 0.95 < np.mean([one.error**2 for one in found]) * 8 * 40 < 1.4
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.9


def test_nothing_drawn_is_no_interval():
    found = crossed_interval(of_mean(scores(seeds=1, prompts=1)), 1, 1, np.random.default_rng(0))
    assert math.isfinite(found.value)
    assert np.isnan([found.error, found.low, found.high]).all()
    assert found.over.startswith("nothing")


def test_what_is_constant_is_known():
    found = crossed_interval(of_mean(np.full((3, 2, 4), 0.25)), 2, 4, np.random.default_rng(0))
    assert (found.low, found.high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_the_same_generator_gives_the_same_interval():
    first, second = (crossed_interval(of_mean(scores()), 3, 7, np.random.default_rng(9)) for _ in range(2))
    assert (first.low, first.high) == (second.low, second.high)


@pytest.mark.parametrize(
    ("counts", "words"),
    [((3, 9), "3 seeds and 9 prompts,"), ((1, 9), "given this seed"), ((3, 1), "given these prompts")],
)
def test_captions_say_what_was_drawn(counts, words):
    assert words in what_was_drawn(*counts)


# --- p-values


def test_p_is_students_and_agrees_with_the_interval():
    table = scores(seeds=1, prompts=40)
    found = crossed_interval(of_mean(table), 1, 40, np.random.default_rng(0), replicates=40_000)
    by_prompt = table[:, 0].mean(axis=0)
    assert p_value(found, 0.45) == pytest.approx(stats.ttest_1samp(by_prompt, 0.45).pvalue, abs=2e-3)
    assert p_value(found, float(found.low)) == pytest.approx(0.05)


def test_p_without_error():
    table = np.full((2, 1, 5), 0.5)
    known = crossed_interval(of_mean(table), 1, 5, np.random.default_rng(0))
    assert (p_value(known, 0.5), p_value(known, 0.4)) == (1, 0)
    unknown = crossed_interval(of_mean(table[:, :, :1]), 1, 1, np.random.default_rng(0))
    assert math.isnan(p_value(unknown, 0.4))


def test_holm_against_statsmodels():
    p_values = np.random.default_rng(0).random(40) ** 3
    p_values[5] = p_values[6]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_holm_by_hand_with_ties_and_what_was_not_tested():
    assert holm([[0.01, NAN], [0.04, 0.03]]) == pytest.approx(np.array([[0.03, NAN], [0.06, 0.06]]), nan_ok=True)
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert np.isnan(holm([NAN])).all()
    assert holm([]).size == 0


# --- coverage


def covered(seeds, worlds, mix="mixed"):
    """The coverage over other seeds and over prompts given these seeds, (2, statistics)."""
    program = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))
    return program["coverage"](program["MIXES"][mix], seeds, worlds, np.random.default_rng(0))


def test_intervals_of_ten_seeds_cover_as_often_as_they_say():
    """Within four binomial standard errors of 95 %, for every statistic; `make torture` narrows them down."""
    worlds = 20
    shares = covered(10, worlds)[0]
    assert np.abs(shares - 0.95).max() < 4 * math.sqrt(0.95 * 0.05 / worlds)


def test_an_interval_of_one_seed_holds_for_that_seed_alone():
    """Where seeds dominate, other seeds fall outside; the caption says so."""
    others, this = covered(1, 60, "seeds dominate")
    assert others[0] < 0.6
    assert this.min() > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 60)


@pytest.mark.torture
@pytest.mark.parametrize("mix", ["seeds dominate", "mixed", "prompts dominate"])
def test_intervals_of_ten_seeds_cover_in_two_thousand_sweeps(mix):
    shares = covered(10, 2000, mix)[0]
    assert shares.min() >= 0.93
    assert shares.max() <= 0.97
