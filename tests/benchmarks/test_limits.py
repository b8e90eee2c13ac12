"""A sweep's seconds, laid out by hand: two workers, three trials, a command that began at 100 and ended at 130."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from limits import Ran, Trial, by_worker, row
from scaling import power


def trial(began: float, total: float, **stages: float) -> Trial:
    return Trial(began, {**stages, "total": total})


TRIALS = [
    trial(110, 6, train=4, generate=1, kl=0.5, judge=0.2, measure=0.2),
    trial(110.5, 9.5, train=9),
    trial(117, 2, train=2),
]


def test_each_trial_follows_the_one_whose_worker_was_free():
    """The first ended at 116, the second at 120: the third, which began at 117, is the first worker's."""
    first, second = by_worker(TRIALS)
    assert first == (TRIALS[0], TRIALS[2])
    assert second == (TRIALS[1],)


def test_all_seconds_of_the_workers_are_accounted_for():
    """9 s from 110 to 119, of which one between two trials; 9.5 s from 110.5 to 120."""
    ran = Ran(100, 130, by_worker(TRIALS))
    spent = ran.spent()
    assert ran.busy == 18.5
    assert sum(spent.values()) == pytest.approx(ran.busy)
    assert (spent["train"], spent["between"]) == (15, 1)
    assert spent["rest"] == pytest.approx(0.6)
    assert (ran.before, ran.after, ran.waiting) == (10, 10, 1)


def test_what_is_neither_training_nor_evaluation_is_overhead():
    """18.5 s less 15 + 1 + 0.5 + 0.2."""
    cells = row(96, Ran(100, 130, by_worker(TRIALS))).split(" | ")
    assert float(cells[9]) == pytest.approx(100 * 1.8 / 18.5, abs=0.06)


def test_a_power_is_found_where_there_is_one():
    assert power({n: 0.3 * n**1.5 for n in (24, 48, 96)}) == pytest.approx(1.5)
    assert power({24: 0.0, 48: 1.0}) == 0.0
