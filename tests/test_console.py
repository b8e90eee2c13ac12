"""What plan says of time, memory and the calls of judges."""

import re
import sys
from dataclasses import replace

import pytest

from posweep import capacity, console
from posweep.config import configure
from posweep.cost import cost_of, seconds_by_shape
from posweep.errors import PreflightError
from posweep.folder import folder_of
from posweep.judges.comparison import planned
from posweep.ledger import Ledger
from posweep.plan import Plan, make_plan
from posweep.records import Outcome, TrialResult

LLM = ("judge=[gold,llm]", "judge.llm.model=judge", "evaluation.prompts=60", "evaluation.sets=[iid,ood]")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def demo(*overrides: str):
    return configure(["sweep=demo", *overrides])


def lines(capsys, configuration) -> list[str]:
    console.print_plan(configuration)
    return capsys.readouterr().out.splitlines()


def finish(configuration, *, seconds: float = 60.0, status: str = "finished", first: int | None = None) -> Plan:
    """Put results of the first trials into the ledger."""
    plan = make_plan(configuration)
    for spec in plan.trials[:first]:
        keys = (spec.key, spec.response_key, spec.score_key)
        Ledger(folder_of(configuration)).write(
            Outcome(TrialResult(*keys, status, seconds={"total": seconds, "record": 0.0}))
        )
    return plan


# --- time


def shapes(*extra: str):
    """DPO with batches of 8 and 16, one and two epochs, four trials each; LN-DPO, one."""
    axes = "grid:{beta:[0.1,0.2,0.3,0.4],batch_size:[8,16],epochs:[1,2]}"
    return demo(
        f"sweep.blocks=[{{method:dpo,{axes}}},{{method:ln_dpo,list:[{{beta:2}}]}}]", "method=[dpo,ln_dpo]", *extra
    )


def times(plan, finished) -> list[float | None]:
    return [cost.seconds for cost in cost_of(shapes(), plan, finished, {}).values()]


def result(spec, seconds: float, status: str = "finished") -> TrialResult:
    return TrialResult(spec.key, spec.response_key, spec.score_key, status, seconds={"total": seconds})


def test_time_is_that_of_trials_of_the_same_method_batch_and_epochs():
    """One trial of each shape took 10, 20, 40 and 80 s; three of each are left: 3 · 150 s."""
    plan = make_plan(shapes())
    first = {}
    for spec in plan:
        if spec.method == "dpo":
            first.setdefault((spec.train["batch_size"], spec.train["epochs"]), spec)
    finished = {spec.key: result(spec, 10 * 2**i) for i, spec in enumerate(first.values())}
    assert times(plan, finished) == [450.0, None]
    unlike = dict(list(finished.items())[:3])
    assert times(plan, unlike) == [None, None]  # of the fourth shape nothing is known


def test_a_trial_that_diverged_tells_nothing_of_how_long_one_takes():
    plan = make_plan(shapes())
    specs = [
        spec for spec in plan if spec.method == "dpo" and (spec.train["batch_size"], spec.train["epochs"]) == (8, 1.0)
    ]
    finished = {specs[0].key: result(specs[0], 100.0), specs[1].key: result(specs[1], 2.0, "diverged")}
    assert seconds_by_shape(plan, finished) == {("dpo", 8, 1.0): 100.0}
    assert times(Plan("demo", tuple(specs)), finished) == [200.0]


def test_where_all_is_done_nothing_is_left(capsys):
    configuration = demo("executor.workers=2")
    finish(configuration)
    assert "36 trials, 36 finished, 0 left · time 0:00:00 with 2 at a time · GPU-hours 0.0" in lines(
        capsys, configuration
    )


def test_gpu_hours_are_those_of_the_trials_that_are_left(capsys):
    """Trials of an hour on half a GPU; eleven of twelve are left."""
    configuration = demo("method=[dpo]", "executor.workers=1", "executor.trial_resources.gpu=0.5")
    finish(configuration, seconds=3600.0, first=1)
    (line,) = [line for line in lines(capsys, configuration) if " left · " in line]
    assert line == "12 trials, 1 finished, 11 left · time 11:00:00 with 1 at a time · GPU-hours 5.5"


# --- memory


def test_plan_says_what_a_trial_needs(capsys):
    asked = ("executor.trial_resources.gpu=1", "executor.trial_resources.gpu_memory=80")
    shown = lines(capsys, demo("model=llama_8b", *asked))
    (line,) = [line for line in shown if line.startswith("memory a trial needs: ")]
    assert re.fullmatch(r"memory a trial needs: 2\d\.\d GB while generating \(weights 16\.3, .*\) of 80\.0 GB", line)


def test_plan_says_where_it_cannot_know(capsys, tmp_path):
    (tmp_path / "model").mkdir()
    shown = lines(capsys, demo("model=hf", "model.name=./model"))
    assert any(line.startswith("memory a trial needs: unknown (not on this machine; set model.size.") for line in shown)


def test_what_cannot_fit_is_shown_and_refused(capsys, monkeypatch):
    from posweep import cli

    asked = ("executor.trial_resources.gpu=1", "executor.trial_resources.gpu_memory=24")
    words = ["plan", "sweep=demo", "model=llama_8b", "model.lora.rank=0", *asked]
    with pytest.raises(PreflightError):
        console.print_plan(configure(words[1:]))
    monkeypatch.setattr(sys, "argv", ["posweep", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    ran = capsys.readouterr()
    assert end.value.code == 2
    assert "36 trials, 0 finished" in ran.out
    assert re.fullmatch(
        r"executor\.trial_resources\.gpu: a trial needs \d+ GB while .*, and has 24\.0 GB; .*\.\n", ran.err
    )


def test_the_largest_batch_of_the_plan_counts(capsys):
    asked = ("model=qwen_05b", "executor.trial_resources.gpu=1", "executor.trial_resources.gpu_memory=24")
    grid = "sweep.blocks=[{method:dpo,grid:{batch_size:[8,128]}}]"
    with pytest.raises(PreflightError, match=r"set train\.micro_batch_size=32 or "):
        console.print_plan(demo(*asked, grid, "method=[dpo]"))
    assert capacity.problems(demo(*asked), 32) == []


# --- calls of judges


def calls(capsys, configuration) -> list[str]:
    return [line for line in lines(capsys, configuration) if line.startswith("judge ")]


def test_plan_says_what_a_judge_behind_an_endpoint_will_be_asked(capsys):
    """36 · 2 · 60 · 2 · 2 = 17,280 calls and 480 for the baseline. A comparison has at most 4 · (8 + 48 + 48) characters."""
    configuration = demo(*LLM)
    n, tokens = planned(configuration.judges["llm"], 37 * 2 * 60 * 2, 37 * 2 * 60 * 2 * 4 * (8 + 48 + 48))
    assert n == 17_760
    assert calls(capsys, configuration) == [
        f"judge llm: 17,760 calls, about {tokens / 1e6:.1f} M tokens "
        "(36 trials × 2 sets × 60 prompts × (1 SFT response + chosen) × 2 orders, and 480 for the baseline)"
    ]


def test_every_point_of_training_is_judged_and_every_opponent_met(capsys):
    (line,) = calls(capsys, demo(*LLM, "train.evaluate_at=[0.5,1.0]", "judge.llm.opponents=3"))
    assert "(36 trials × 2 points of training × 2 sets × 60 prompts × (3 SFT responses + chosen) × 2 orders" in line
    assert line.startswith(f"judge llm: {73 * 2 * 60 * 4 * 2:,} calls")


def test_what_is_finished_is_not_asked_again(capsys):
    configuration = demo(*LLM)
    finish(configuration, first=6)
    (line,) = calls(capsys, configuration)
    assert line.startswith("judge llm: 14,400 calls, about ")
    assert "(30 trials × " in line
    assert line.endswith(" × 2 orders)")
    finish(configuration)
    assert calls(capsys, configuration) == ["judge llm: 0 calls left"]


def test_without_a_number_of_prompts_the_calls_are_unknown(capsys, pairs):
    configuration = configure(["sweep=alpaca_small", f"data.path={pairs}", "judge=[llm]", "judge.llm.model=judge"])
    assert calls(capsys, configuration) == ["judge llm: calls unknown (set evaluation.prompts)"]
    some = replace(configuration, evaluation=replace(configuration.evaluation, prompts=5))
    assert calls(capsys, some)[0].startswith(f"judge llm: {(len(make_plan(some)) + 1) * 2 * 5 * 2 * 2:,} calls")
    assert calls(capsys, demo()) == []


def test_status_says_which_results_cannot_be_read(capsys):
    configuration = demo()
    plan = finish(configuration, first=2)
    broken = folder_of(configuration) / "ledger" / f"{plan.trials[0].key}.json"
    broken.write_text('{"key": ')
    console.print_status(configuration)
    said = f"{broken}: cannot be read; its trial runs again with the next launch."
    assert said in capsys.readouterr().out.splitlines()
