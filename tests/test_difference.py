"""What a plan says of the one launched before: same, new, gone, and which setting changed which keys."""

import dataclasses
import json

import pytest

from posweep import plan as plans
from posweep.config import configure
from posweep.difference import compare
from posweep.identity import identity_of
from posweep.objectives import OBJECTIVES
from posweep.plan import Plan, Planner, make_plan
from posweep.settings import LocalData

from .changed import changed, with_blocks
from .test_plan import CHANGES
from .tiny import SMOKE, posweep


def difference(before, after, recorded=()):
    return compare(make_plan(before), make_plan(after), identity_of(before), identity_of(after), recorded)


ONE = [
    (level, override)
    for level, row in CHANGES.items()
    for override in row
    if level != "nothing" and not override.startswith("sweep.seeds")
]


@pytest.fixture(scope="module")
def before(as_it_stands):
    return make_plan(as_it_stands), identity_of(as_it_stands)


@pytest.mark.parametrize(("level", "override"), ONE)
def test_every_setting_that_changes_keys_is_named_and_no_other(before, composed, level, override):
    """The table of what changes which key, told by the difference of two plans."""
    now = changed(composed, override)
    found = compare(before[0], make_plan(now), before[1], identity_of(now))
    (change,) = found.changes
    name = override.partition("=")[0]
    assert change.level == level
    assert change.what.startswith(f"{name}=" if name == "judge" else f"{name} ")
    assert change.trials == found.changed == (2 if name.startswith("method.") else 6)
    assert (found.same + found.changed, found.new, found.gone) == (6, (), ())


def test_a_setting_that_changes_no_key_is_not_named(as_it_stands):
    found = difference(as_it_stands, dataclasses.replace(as_it_stands, output_dir="elsewhere"))
    assert (found.same, found.changed, found.changes, found.new, found.gone) == (6, 0, (), (), ())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.weight_decay=0.1",
         "train.weight_decay 0.0 → 0.1 changes the key of 6 trials: they will be trained again (2 of them had finished)."),
        ("sample.temperature=0.7",
         "sample.temperature 1.0 → 0.7 changes what 6 trials are measured on: they will be trained again to draw responses "
         "(2 of them had finished)."),
        ("judge=[gold,proxy]",
         "judge=[gold] → [gold,proxy]: the scores of 6 trials will be computed again, nothing is trained "
         "(2 of them had finished)."),
        ("method.dpo.hyperparameters.gamma=0.5",
         "method.dpo.hyperparameters.gamma 0.0 → 0.5 changes the key of 2 trials: they will be trained again "
         "(2 of them had finished)."),
    ],
)  # fmt: skip
def test_what_is_said_of_each_kind(as_it_stands, composed, override, sentence):
    recorded = {spec.key for spec in make_plan(as_it_stands).trials[:2]}
    found = difference(as_it_stands, changed(composed, override), recorded)
    assert list(map(str, found.changes)) == [sentence]


def test_judging_trials_that_are_measured_along_training_trains_them_again(as_it_stands):
    along = [dataclasses.replace(c, train=dataclasses.replace(c.train, evaluate_at=(0.5, 1.0)))
             for c in (as_it_stands, configure(["sweep=smoke", "judge=[proxy]"]))]  # fmt: skip
    assert "measured along training: they will be trained again" in str(difference(*along).changes[0])


def test_two_settings_are_told_apart(as_it_stands, composed):
    both = changed(composed, "train.weight_decay=0.1")
    both = dataclasses.replace(both, model=dataclasses.replace(both.model, layers=2))
    said = [change.what for change in difference(as_it_stands, both).changes]
    assert said == ["train.weight_decay 0.0 → 0.1", "model.layers 1 → 2"]


def test_the_version_of_a_formula_changes_its_method_alone(as_it_stands, monkeypatch):
    before = (make_plan(as_it_stands), identity_of(as_it_stands))
    monkeypatch.setattr(OBJECTIVES["simpo"], "version", 2)
    found = compare(before[0], make_plan(as_it_stands), before[1], identity_of(as_it_stands))
    assert [change.what for change in found.changes] == ["the formula of SimPO (version) 1 → 2"]
    assert (found.same, found.changed) == (4, 2)


def test_the_schema_changes_every_key(as_it_stands, monkeypatch):
    before = (make_plan(as_it_stands), identity_of(as_it_stands))
    monkeypatch.setattr(plans, "SCHEMA", plans.SCHEMA + 1)
    found = compare(before[0], make_plan(as_it_stands), before[1], identity_of(as_it_stands))
    assert [change.what for change in found.changes] == [
        f"posweep's arithmetic (schema) {before[1].schema} → {before[1].schema + 1}"
    ]


def of_files(configuration, pairs):
    """The same sweep on files; only planned."""
    return dataclasses.replace(configuration, data=LocalData(path=str(pairs)))


def test_the_content_of_a_file_is_named_without_its_hash(as_it_stands, pairs):
    configuration = of_files(as_it_stands, pairs)
    before = make_plan(configuration), identity_of(configuration)
    for name, level in (("data.evaluation.ood", "response_key"), ("data.train", "key")):
        with (pairs / f"{name.rpartition('.')[2]}.jsonl").open("a") as file:
            file.write(json.dumps({"prompt": "another", "chosen": "good", "rejected": "bad"}) + "\n")
        now = make_plan(configuration), identity_of(configuration)
        found = compare(before[0], now[0], before[1], now[1])
        assert [(change.what, change.level) for change in found.changes] == [(f"the content of {name}", level)]


def test_of_a_thing_of_another_kind_only_the_kind_is_said(as_it_stands, pairs):
    found = difference(as_it_stands, of_files(as_it_stands, pairs))
    assert [change.what for change in found.changes] == ["data.kind demo → local"]


# --- grids


def test_seeds_that_are_added_are_new_and_change_nothing(as_it_stands):
    more = dataclasses.replace(as_it_stands, sweep=dataclasses.replace(as_it_stands.sweep, seeds=(0, 1, 2)))
    assert str(difference(as_it_stands, more)) == "Since the last launch: 6 trials the same, 12 new (seeds 1, 2)."
    assert str(difference(more, as_it_stands)) == "Since the last launch: 6 trials the same, 12 gone (seeds 1, 2)."


def test_methods_and_values_that_come_and_go(as_it_stands):
    before = with_blocks(
        as_it_stands, {"method": "dpo", "grid": {"beta": [0.1, 0.3]}}, {"method": "ln_dpo", "list": [{"beta": 2.0}]}
    )
    after = with_blocks(
        as_it_stands, {"method": "dpo", "grid": {"beta": [0.3, 0.5]}}, {"method": "simpo", "list": [{"beta": 2.0}]}
    )
    assert str(difference(before, after)) == (
        "Since the last launch: 1 trial the same, 2 new (beta 0.5; method SimPO), 2 gone (beta 0.1; method LN-DPO)."
    )


def test_a_grid_may_grow_while_a_setting_changes(as_it_stands):
    before = with_blocks(as_it_stands, {"method": "dpo", "grid": {"beta": [0.1, 0.3]}})
    after = with_blocks(as_it_stands, {"method": "dpo", "grid": {"beta": [0.3, 0.5]}})
    after = dataclasses.replace(after, train=dataclasses.replace(after.train, weight_decay=0.1))
    found = difference(before, after)
    assert str(found) == (
        "Since the last launch: 0 trials the same, 1 with other keys, 1 new (beta 0.5), 1 gone (beta 0.1)."
    )
    assert found.changes[0].trials == 1


def test_many_values_are_not_listed(as_it_stands):
    grid = {"beta": [i / 10 for i in range(1, 11)]}
    before, after = (with_blocks(as_it_stands, {"method": "dpo", "grid": one}) for one in ({"beta": [0.1]}, grid))
    assert str(difference(before, after)).endswith("9 new (beta 0.2, 0.3, 0.4, 0.5, …).")


def test_adaptive_trials_stand_apart(as_it_stands):
    plan, planner = make_plan(as_it_stands), Planner(as_it_stands)
    block = {"method": "dpo", "index": 0, "list": []}
    searched = plan.extended(planner.trial(block, {"beta": beta}, 0, adaptive=True) for beta in (0.11, 0.12, 0.3))
    assert [spec.design for spec in searched.adaptive] == ["adaptive"] * 2  # β = 0.3 was planned already
    found = compare(searched, plan, identity_of(as_it_stands), identity_of(as_it_stands))
    assert str(found) == "Since the last launch: 6 trials the same (+ 2 adaptive)."
    assert found.gone == ()
    assert Plan.from_jsonl("smoke", searched.to_jsonl()) == searched


# --- the verbs


def test_plan_tells_what_changed_and_changes_nothing(launched):
    before = (launched / "plan.jsonl").read_bytes()
    ran = posweep("plan", *SMOKE, "train.weight_decay=0.1")
    assert ran.code == 0
    assert ran.out.splitlines()[-2:] == [
        "Since the last launch: 0 trials the same, 6 with other keys.",
        "train.weight_decay 0.0 → 0.1 changes the key of 6 trials: they will be trained again.",
    ]
    assert (launched / "plan.jsonl").read_bytes() == before


def test_plan_says_nothing_of_a_launch_that_never_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "last launch" not in posweep("plan", *SMOKE).out


def test_a_launch_says_it_before_it_trains_again(launched, monkeypatch):
    monkeypatch.setattr("posweep.launch._run", lambda *_: None)
    sentence = "train.weight_decay 0.0 → 0.1 changes the key of 6 trials: they will be trained again."
    assert sentence in posweep(*SMOKE, "train.weight_decay=0.1").out
    assert "changes" not in posweep(*SMOKE, "train.weight_decay=0.1").out  # that was said
