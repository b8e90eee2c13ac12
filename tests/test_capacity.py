"""Whether a trial fits, how many do, and what to do where none does."""

import dataclasses
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from posweep import capacity, memory, size
from posweep.settings import (
    HubModel,
    RewardModelSettings,
)

from .sizes import demo, gpu

FLOAT32 = ("model.lora.rank=8", "model.dtype=float32")
MANY = ("train.micro_batch_size=1", "sample.batch_size=768", "sample.max_new_tokens=250")
# scoring takes 12.6 GB, and training of 32 pairs 18.5, of 16 15.5, of 8 13.9
NARROW = {
    "one of several": ((17,), "train.micro_batch_size=16, model.gradient_checkpointing=true or model.lora.rank=16"),
    "smaller parts": ((15,), "train.micro_batch_size=8, model.gradient_checkpointing=true or model.lora.rank=16"),
    "only adapters": ((12,), "model.lora.rank=16"),
    "two together": ((8,), "model.lora.rank=16 and train.micro_batch_size=16"),
    "generation": ((16, *MANY), "model.lora.rank=16 or sample.batch_size=384"),
    "16 bit": ((12, *FLOAT32), "train.micro_batch_size=16, model.gradient_checkpointing=true or model.dtype=bfloat16"),
}


@pytest.mark.parametrize(("asked", "ways"), NARROW.values(), ids=NARROW)
def test_every_way_out_leads_out(asked, ways):
    """Of settings joined by `or` each is enough, and the mildest value of it; of those joined by `and` all are needed."""
    (sentence,) = capacity.problems(gpu(*asked), 32)
    assert f"; set {ways}, or take a larger GPU." in sentence
    overrides = re.split(r", | or | and ", ways)
    for way in [overrides] if " and " in ways else [[one] for one in overrides]:
        assert capacity.problems(gpu(*asked, *way), 32) == []
        assert " and " not in ways or all(capacity.problems(gpu(*asked, one), 32) for one in way)


def test_a_trial_that_cannot_fit_is_one_sentence():
    assert capacity.problems(gpu(24), 32) == []
    (sentence,) = capacity.problems(gpu(12), 32)
    assert sentence == (
        "executor.trial_resources.gpu: a trial needs 18.5 GB while training (activations 6.1, optimizer 4.0, weights 3.0, "
        "gradients 2.0, reference 2.0, overhead 1.0, logits 0.5), and has 12.0 GB; set model.lora.rank=16, or take a "
        "larger GPU."
    )


def test_a_share_of_a_gpu_has_its_share_of_the_memory():
    half = gpu(36, "executor.trial_resources.gpu=0.5")
    (sentence,) = capacity.problems(half, 32)
    assert ", and has 18.0 GB (0.5 of a GPU); set " in sentence
    assert sentence.endswith(", or ask for more of a GPU.")


def test_where_nothing_helps_only_a_larger_gpu_is_named():
    (sentence,) = capacity.problems(gpu(1.5), 32)
    assert re.search(r"\), and has 1\.5 GB; take a larger GPU\.$", sentence)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 4 GB with eight cores."""
    monkeypatch.setattr(capacity, "memory_here", lambda: 4e9)
    monkeypatch.setattr("os.cpu_count", lambda: 8)


def test_without_a_gpu_the_machine_must_hold_all_trials_at_once(machine):
    (sentence,) = capacity.problems(demo(), 32)
    assert sentence.startswith("executor.workers: 8 trials at a time need 6.0 GB, each 0.8 GB while scoring (")
    assert ", and this machine has 4.0 GB; set executor.workers=5, or " in sentence
    assert capacity.problems(demo("executor.workers=5"), 32) == []
    assert capacity.problems(demo(), 32, trials=5) == []
    assert capacity.problems(demo("executor=local"), 32) == []
    assert capacity.problems(demo("executor.address=auto"), 32) == []
    (alone,) = capacity.problems(demo("model=qwen_05b", "executor=local"), 32)
    assert alone.startswith("model: a trial needs 18.0 GB while training (")


def test_what_is_not_known_is_no_problem_and_says_what_to_set(tmp_path):
    nameless = replace(
        gpu(1), model=HubModel(name=str(tmp_path)), judges={"rm": RewardModelSettings(name=str(tmp_path))}
    )
    assert memory.estimate(nameless, 32) is None
    assert capacity.problems(nameless, 32) == []
    assert capacity.summary(nameless, 32) == (
        "unknown (not on this machine; set model.size.parameters, model.size.layers, model.size.hidden_size, "
        "model.size.key_value_size, model.size.vocabulary, judge.rm.parameters)"
    )
    known = replace(gpu(1), judges=nameless.judges)
    assert capacity.summary(known, 32) == "unknown (not on this machine; set judge.rm.parameters)"


def test_the_summary_is_a_line(machine):
    assert capacity.summary(gpu(24), 2) == (
        "12.6 GB while scoring (optimizer 4.0, weights 3.0, logits 2.6, reference 2.0, overhead 1.0, activations 0.1) "
        "of 24.0 GB"
    )
    assert capacity.summary(demo("executor.address=auto"), 2).endswith("overhead 0.5, logits 0.2)")
    assert capacity.summary(demo("executor.workers=2"), 2).endswith(" of 2.0 GB")


def test_the_method_that_asks_for_the_least_says_what_fits():
    own = "+executor.method_resources.dpo={gpu: 0.25, gpu_memory: 40}"
    (sentence,) = capacity.problems(gpu(40, own, "method=[dpo,kto]"), 32)
    assert sentence.startswith("executor.method_resources.dpo.gpu: a trial needs ")
    assert ", and has 10.0 GB (0.25 of a GPU); " in sentence


def test_methods_that_ask_for_less_run_more_trials_at_the_same_time(monkeypatch):
    monkeypatch.setattr(capacity.os, "cpu_count", lambda: 8)
    asked = ("executor.trial_resources.cpu=4", "method=[dpo,kto]")
    assert capacity.trials_at_once(demo(*asked)) == 2
    assert capacity.trials_at_once(demo(*asked, "+executor.method_resources.kto.cpu=2")) == 4
    assert capacity.trials_at_once(demo(*asked, "+executor.method_resources.ipo.cpu=1")) == 2  # not in this sweep


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """A machine with two GPUs, 24,576 and 16,384 MiB large."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 24576\necho 16384\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tool


def test_the_gpus_of_this_machine_are_asked_where_nobody_says(nvidia):
    asked = demo("model=qwen_05b", "executor.trial_resources.gpu=1")
    assert capacity.memory_of_gpus() == [24 * 2**30, 16 * 2**30]
    assert ", and has 17.2 GB;" in capacity.problems(asked, 32)[0]
    assert capacity.problems(dataclasses.replace(asked, executor=replace(asked.executor, address="auto")), 32) == []
    assert capacity.trials_at_once(asked) == min(2, capacity.os.cpu_count())
    nvidia.write_text("#!/bin/sh\nexit 9\n")
    assert capacity.memory_of_gpus() == []
    nvidia.unlink()
    assert capacity.memory_of_gpus() == []
    assert capacity.problems(asked, 32) == []


# --- how many fit


def test_what_fits_on_a_gpu_is_proposed_with_a_tenth_left_free():
    """18.5 GB each: three fit into 72 of 80 GB, one into 36 of 40."""
    assert capacity.sharing(gpu(80), 32, 12) == (
        "a trial needs 18.5 of 80.0 GB: 3 fit on a GPU; executor.trial_resources.gpu=0.3333"
    )
    assert capacity.problems(gpu(80, "executor.trial_resources.gpu=0.3333"), 32) == []
    assert capacity.sharing(gpu(40), 32, 12) == ""
    assert capacity.sharing(gpu(80), 32, 2).endswith("2 fit on a GPU; executor.trial_resources.gpu=0.5")
    assert capacity.sharing(gpu(80), 32, 1) == ""


def test_what_a_probe_measured_counts_more_than_what_is_reckoned():
    """8.0 GB of tensors and 1.0 of the process: eight fit into 72."""
    assert capacity.sharing(gpu(80), 32, 12, 8_000_000_000) == (
        "a trial needs 9.0 of 80.0 GB (measured): 8 fit on a GPU; executor.trial_resources.gpu=0.125"
    )


@pytest.mark.parametrize("share", [0, 0.5])
def test_nothing_is_proposed_where_no_whole_gpu_is_asked_for(share):
    assert capacity.sharing(gpu(80, f"executor.trial_resources.gpu={share}"), 32, 12) == ""


def test_trials_on_one_gpu_of_this_machine_need_cores_too(nvidia, monkeypatch):
    """Two GPUs of 17.2 and more GB; 15.5 hold fifteen trials, and each has a half of the cores."""
    monkeypatch.setattr(capacity.os, "cpu_count", lambda: 8)
    asked = ("executor.trial_resources.gpu=1", "executor.trial_resources.cpu=2")
    assert capacity.sharing(demo(*asked), 32, 99).endswith("2 fit on a GPU; executor.trial_resources.gpu=0.5")
    assert capacity.sharing(demo(*asked, "executor.address=auto"), 32, 99) == ""
    elsewhere = demo(*asked, "executor.trial_resources.gpu_memory=17", "executor.address=auto")
    assert "fit on a GPU" in capacity.sharing(elsewhere, 32, 99)


def test_fused_trials_share_what_does_not_train():
    """K trials and what is there once fill no more than nine tenths, and K + 1 trials would, at the largest moment.

    Whole models: reference and overhead are 3.0 of 72 GB, and each trial has 15.6 more: four fit, for 65.2 GB.
    """
    whole, adapters = gpu(80), gpu(80, "model.lora.rank=16", "sample.batch_size=32", "train.micro_batch_size=4")
    for configuration in (whole, adapters):
        shape, lora = size.shape_of(configuration.model), configuration.model.lora.rank
        frozen = 2 * shape.parameters if lora else 0
        moments = memory.moments_of(configuration, 32, shape, 0)
        fit = capacity.fused_fit(configuration, 32)

        def bytes_of(trials, frozen=frozen, moments=moments):
            once = [frozen + m.reference + m.overhead for m in moments]
            return max(o + trials * (m.total - o) for o, m in zip(once, moments, strict=True))

        assert bytes_of(fit) <= 72e9 < bytes_of(fit + 1)
    assert capacity.fused_fit(whole, 32) == 4
    assert capacity.fused_fit(adapters, 32) > 3


def test_what_is_not_known_is_not_fused(tmp_path):
    assert capacity.fused_fit(replace(gpu(80), model=HubModel(name=str(tmp_path))), 32) == 1
    assert capacity.fused_fit(gpu(2), 32) == 1
    assert capacity.fused_fit(demo("executor.address=auto"), 32) == 1


def test_more_in_one_pass_than_the_machine_holds_is_one_sentence(monkeypatch):
    monkeypatch.setattr(capacity, "memory_here", lambda: 4e9)
    fit = capacity.fused_fit(demo("executor.workers=1"), 32)
    assert capacity.problems(demo("executor.workers=1", f"executor.fused={fit}"), 32) == []
    assert capacity.problems(demo("executor.workers=1", f"executor.fused={fit + 1}"), 32) == [
        f"executor.fused: {fit + 1} trials in one pass do not fit into the 4.0 GB of this machine; set executor.fused={fit}."
    ]
    assert capacity.problems(demo("executor.workers=1", "executor.fused=null"), 32) == []
    assert capacity.problems(demo("executor.fused=99", "executor.address=auto"), 32) == []


def test_planning_takes_no_torch():
    code = "import sys, posweep.memory, posweep.capacity; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
