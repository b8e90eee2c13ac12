"""The race's second opponent does posweep's work: fed our batches, TRL's losses are ours, step by step."""

from __future__ import annotations

import pytest

from posweep.artifacts.shared import prepare
from posweep.artifacts.store import Store
from posweep.config import configure
from posweep.records import TrialSpec
from posweep.trial.course import Course
from posweep.trial.training import train

pytest.importorskip("trl")

RACED = (11, 23, 35)
"""The last trial of each method: with the highest learning rate rounding grows fastest, and another order tells most."""
FIRST = 1e-5
"""Largest relative difference of losses over the first eight steps, or of equal work; the largest seen is 1.7e-6."""
ALL = 1e-3
"""The same over all of them: rounding grows along training."""


@pytest.fixture(scope="module")
def course(race, tmp_path_factory):
    """All trials of the demo sweep on a small course, with enough pairs for a dozen steps."""
    return race.course.lay_out(tmp_path_factory.mktemp("race") / "course", 36, [*race.race.SMALL, "data.pairs=384"])


@pytest.fixture(scope="module")
def ours(course):
    """posweep's losses by trial."""
    configuration = configure(course.facts["overrides"])
    shared = prepare(configuration, Store(course.folder / "artifacts"), measured=False)
    specs = {index: TrialSpec.from_json(course.trials[index]) for index in RACED}
    curves = {index: train(spec, shared, Course(), measured=False)["loss"] for index, spec in specs.items()}
    return {index: [value for _, value in curve] for index, curve in curves.items()}


def theirs(race, course, index, folder, **how):
    """TRL's losses of a trial."""
    if not (folder / "pairs").is_dir():
        course.put_pairs(folder)
    opponent = race.opponent.Opponent(course, folder, tracked=False, **how)
    model, reference, tokenizer = opponent.models()
    trainer = opponent.train(course.trials[index], model, reference, tokenizer, race.clock.Clock())
    return [float(loss) for loss in trainer.losses]


@pytest.mark.parametrize("index", RACED, ids=["dpo", "ln_dpo", "simpo"])
def test_losses_are_those_of_posweep(race, course, ours, index, tmp_path):
    expected = ours[index]
    found = theirs(race, course, index, tmp_path, our_order=True)
    assert len(found) == len(expected) == 12
    assert race.table.difference(expected[:8], found[:8]) < FIRST
    assert race.table.difference(expected, found) < ALL
    own = theirs(race, course, index, tmp_path)
    assert race.table.difference(expected, own) > 10 * ALL


def test_a_process_that_stays_trains_as_a_fresh_one(race, course, tmp_path):
    """b3: weights are put back, tokens and reference log-probs kept, and the losses are those of b1."""
    course.put_pairs(tmp_path)
    opponent = race.opponent.Opponent(course, tmp_path, keeps=True, tracked=False)
    for index in (*RACED, RACED[0]):
        model, reference, tokenizer = opponent.models()
        trainer = opponent.train(course.trials[index], model, reference, tokenizer, race.clock.Clock())
        found = [float(loss) for loss in trainer.losses]
        assert race.table.difference(theirs(race, course, index, tmp_path), found) < FIRST
