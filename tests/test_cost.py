"""What the trials that are left will take: by hand, from finished trials, from a probe, or unknown."""

import dataclasses
import json
from pathlib import Path

import pytest

from posweep import console, cost
from posweep.config import configure
from posweep.cost import Probed, checkpoint_bytes, cost_of, read_probes, whole
from posweep.folder import folder_of, policy_folder
from posweep.identity import identity_of
from posweep.ledger import Ledger
from posweep.plan import make_plan
from posweep.records import Outcome, TrialResult
from posweep.search import stand_ins

from .tiny import SMOKE

PROBED = Probed(step=2.0, batch_size=32, pairs=128, evaluation=10.0, other=1.0, bytes=1000)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def smoke():
    return configure(SMOKE)


def with_section(configuration, section, **values):
    return dataclasses.replace(
        configuration, **{section: dataclasses.replace(getattr(configuration, section), **values)}
    )


def finish(configuration, trials: int) -> dict[str, TrialResult]:
    plan, ledger = make_plan(configuration), Ledger(folder_of(configuration))
    for spec in plan.trials[:trials]:
        keys = (spec.key, spec.response_key, spec.score_key)
        ledger.write(Outcome(TrialResult(*keys, "finished", seconds={"total": 5.0, "record": 0.0})))
    return ledger.finished(plan)


# --- time


def test_a_probe_is_extrapolated_to_the_steps_of_a_trial(smoke):
    """4 steps of 2 s, 10 s of evaluation, 1 s: 19 s. Twice the epochs 27 s; half the batch 8 steps of 1 s."""
    spec = make_plan(smoke).trials[0]
    assert PROBED.seconds(spec, 1) == 19.0
    assert PROBED.seconds(spec, 3) == 39.0
    assert PROBED.seconds(dataclasses.replace(spec, train={**spec.train, "epochs": 2.0}), 1) == 27.0
    assert PROBED.seconds(dataclasses.replace(spec, train={**spec.train, "batch_size": 16}), 1) == 19.0


def test_finished_trials_tell_more_than_a_probe_and_a_probe_more_than_nothing(smoke):
    plan, finished = make_plan(smoke), finish(smoke, 1)
    costs = cost_of(smoke, plan, finished, {"ln_dpo": PROBED})
    assert [costs[block].seconds for block in (0, 1, 2)] == [5.0, 38.0, None]
    assert whole(costs).seconds is None


def test_a_search_costs_what_its_methods_trials_do(smoke):
    searching = with_section(with_section(smoke, "search", kind="tpe", trials=5), "executor", kind="local")
    write_probe(searching)
    plan = make_plan(searching)
    found = cost_of(searching, plan, {}, {"dpo": PROBED, "ln_dpo": PROBED, "simpo": PROBED}, stand_ins(searching, plan))
    assert found[cost.SEARCH].seconds == 5 * 3 * PROBED.seconds(plan.trials[0], 1)
    assert whole(found).seconds == (5 * 3 + len(plan)) * PROBED.seconds(plan.trials[0], 1)


def test_plan_counts_a_search_and_no_more_workers_than_trials(smoke, capsys):
    searching = with_section(smoke, "search", kind="tpe", trials=1)
    console.print_plan(with_section(searching, "executor", kind="ray", workers=50))
    assert "6 trials, 0 finished, 6 left and 3 of the search · time unknown with 9 at a time" in capsys.readouterr().out


def test_gpu_hours_are_those_of_each_method(smoke):
    """An hour a trial, two trials a method: DPO on 2 GPUs, the others on half a GPU."""
    asked = dataclasses.replace(smoke.executor.trial_resources, gpu=0.5)
    executor = {"trial_resources": asked, "method_resources": {"dpo": dataclasses.replace(asked, gpu=2.0)}}
    configuration = with_section(smoke, "executor", **executor)
    hour = Probed(0.0, 32, 128, 3600.0, 0.0, 0)
    costs = cost_of(configuration, make_plan(configuration), {}, dict.fromkeys(("dpo", "ln_dpo", "simpo"), hour))
    assert [cost.gpu_hours for cost in costs.values()] == [4.0, 1.0, 1.0]


# --- disk


def test_records_take_what_those_of_finished_trials_take(smoke):
    finished = finish(smoke, 2)
    size = sum(file.stat().st_size for file in folder_of(smoke).rglob("*.json")) / 2
    costs = cost_of(smoke, make_plan(smoke), finished, {})
    assert [cost.records for cost in costs.values()] == [0.0, 2 * size, 2 * size]
    assert [cost.disk for cost in costs.values()] == [0.0, 2 * size, 2 * size]  # a whole model is not kept by default


@pytest.mark.parametrize(("keep", "policies"), [("nothing", 0), ("adapters", 0), ("best", 3), ("all", 6)])
def test_policies_take_what_is_kept_of_them(smoke, keep, policies):
    """A Llama of 4096 words, one layer, 32 wide: (4096 + 1)·32 + 4·32² + 3·32·88 + 2·32 parameters of 4 bytes."""
    parameters = 4097 * 32 + 4 * 32**2 + 3 * 32 * 88 + 2 * 32
    configuration = with_section(smoke, "train", keep=keep)
    costs = cost_of(configuration, make_plan(configuration), {}, {})
    assert whole(costs).policies == policies * 4 * parameters
    assert checkpoint_bytes(configuration, 6) == 2 * 3 * 4 * parameters


def test_a_policy_that_is_there_tells_how_large_one_is(smoke):
    configuration = with_section(smoke, "train", keep="all")
    finished = finish(configuration, 1)
    kept = policy_folder(folder_of(configuration), next(iter(finished)))
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_bytes(b"x" * 1000)
    assert whole(cost_of(configuration, make_plan(configuration), finished, {})).policies == 5 * 1000


def test_plan_says_what_disk_it_takes_and_warns_where_there_is_none(smoke, capsys, monkeypatch):
    configuration = with_section(smoke, "train", keep="all")
    console.print_plan(configuration)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("disk: ")]
    assert line.startswith(
        "disk: 6.9 MB or more (records unknown, policies 3.4 MB with train.keep=all, checkpoints 3.4 MB with 1 at a time); "
    )
    assert line.endswith(f" free in {Path.cwd()}")
    monkeypatch.setattr("posweep.console.plan.free_bytes", lambda _: 1e6)
    console.print_plan(configuration)
    warning = "That does not fit on the disk: set train.keep=nothing, or set output_dir to a folder with more room."
    assert warning in capsys.readouterr().out


# --- probes


def write_probe(configuration, **changes):
    settings = cost.probed_settings(configuration, identity_of(configuration))
    written = {"settings": settings, "methods": {"dpo": PROBED.to_json()}, **changes}
    folder_of(configuration).mkdir(parents=True, exist_ok=True)
    (folder_of(configuration) / cost.PROBE).write_text(json.dumps(written))


def probes(configuration):
    return read_probes(folder_of(configuration), configuration, identity_of(configuration))


def test_a_probe_counts_for_the_settings_it_was_made_with(smoke):
    write_probe(smoke)
    assert probes(smoke) == {"dpo": PROBED}
    assert probes(with_section(smoke, "model", hidden_size=64)) == {}
    assert probes(with_section(smoke, "sample", max_new_tokens=8)) == {}
    assert probes(with_section(smoke, "train", micro_batch_size=8)) == {}
    assert probes(with_section(smoke, "train", epochs=2.0)) == {"dpo": PROBED}  # extrapolated


@pytest.mark.parametrize("methods", [[], {"dpo": {"step": 1}}, {"dpo": None}])
def test_a_damaged_probe_is_none(smoke, methods):
    write_probe(smoke, methods=methods)
    assert probes(smoke) == {}
