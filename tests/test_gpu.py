"""What only a GPU can show: no waiting inside a step, the numbers of the CPU, memory as planned."""

import dataclasses

import numpy as np
import pytest

from posweep.config import configure
from posweep.plan import largest_batch, make_plan

from .rounding import BACKWARD, near

pytestmark = [pytest.mark.gpu, pytest.mark.xdist_group("gpu")]

SCRATCH = ["sweep=smoke", "executor.trial_resources.gpu=1", "tracking=none", "data.pairs=256"]
LARGE = [*SCRATCH, "model.hidden_size=512", "model.layers=8", "model.heads=8", "model.dtype=bfloat16"]


@pytest.fixture(scope="module")
def on(tmp_path_factory):
    """The artifacts of a sweep on a device."""
    from posweep.artifacts.shared import prepare
    from posweep.artifacts.store import Store

    def make(device: str, *overrides: str):
        made = tmp_path_factory.mktemp("gpu") / "artifacts"
        return prepare(configure([*SCRATCH, *overrides]), Store(made), device)

    return make


def step(shared, count: int = 1):
    """Steps of the first trial's loss; the gradients before the last of them."""
    from posweep.policy.batch import batches
    from posweep.policy.load import trained
    from posweep.policy.train import optimise, reset
    from posweep.trial.loss import preference_loss

    spec = make_plan(shared.configuration).trials[0]
    settings = dataclasses.replace(shared.configuration.train, **{**spec.train, "max_grad_norm": 1e9})
    reset(trained(shared.policy), shared.weights)
    plan = batches(shared.pairs.lengths(), settings.batch_size, count, seed=spec.seed)
    return optimise(shared.policy.model, plan, preference_loss(spec, shared), settings)


def test_a_step_waits_for_nothing(on):
    """Fifteen steps between two looks at whether the numbers are finite: any copy that waits raises."""
    import torch

    shared = on("cuda")
    step(shared, 2)  # kernels are chosen and memory is found the first time
    torch.cuda.synchronize()
    real = torch.stack
    try:
        torch.cuda.set_sync_debug_mode("error")
        # the look at the end waits by design: leave error mode for it
        torch.stack = lambda *a, **k: (torch.cuda.set_sync_debug_mode("default"), real(*a, **k))[1]
        step(shared, 15)
    finally:
        torch.stack = real
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", ["dpo", "simpo", "kto", "sampo"])
def test_a_step_is_that_of_the_cpu_up_to_rounding(on, method):
    chosen = [f"method=[{method}]", "sweep.learning_rates=[1e-3]"]
    cpu, gpu = (step(on(device, *chosen), 1) for device in ("cpu", "cuda"))
    for name in ("loss", "grad_norm"):
        assert gpu[name][0][1] == near(cpu[name][0][1], BACKWARD)


def test_responses_are_those_of_the_cpu_nearly_all(on):
    from posweep.policy.sample import sample

    cpu = on("cpu")
    noise = np.random.default_rng(0).random((16, 24))
    prompts = cpu.evaluation[0].pairs.prompts[:16]
    weights = {name: value.to("cuda") for name, value in cpu.policy.model.state_dict().items()}
    gpu = on("cuda")
    gpu.policy.model.load_state_dict(weights)
    pairs = zip(sample(cpu.policy, prompts, noise), sample(gpu.policy, prompts, noise), strict=True)
    assert np.mean([one.tokens == other.tokens for one, other in pairs]) > 0.9


def test_a_trial_in_bfloat16_uses_the_memory_that_was_planned(on):
    import torch

    from posweep import memory
    from posweep.trial import run_trial

    shared = on("cuda", *LARGE)
    plan = make_plan(shared.configuration)
    planned = memory.estimate(shared.configuration, largest_batch(plan))
    torch.cuda.reset_peak_memory_stats()
    outcome = run_trial(plan.trials[0], shared)
    used = torch.cuda.max_memory_allocated()
    assert outcome.result.status == "finished"
    assert 0.4 * used < planned.total - planned.overhead < 2.5 * used


def test_a_probe_measures_the_peak_of_a_trial(on):
    """At least weights, gradients, both moments of Adam and the reference: 24 bytes a parameter."""
    from posweep.probe import _probe

    shared = on("cuda")
    spec = make_plan(shared.configuration).trials[0]
    assert _probe(spec, shared, lambda _: None).peak > 20 * sum(p.numel() for p in shared.policy.model.parameters())


def test_trials_in_one_pass_are_trained_as_alone(on):
    from posweep.policy.checkpoint import Door
    from posweep.trial import run_cohort, run_trial

    shared = on("cuda")
    specs = [dataclasses.replace(one, key=f"k{i}") for i, one in enumerate(make_plan(shared.configuration).trials[:3])]
    ends = [end for _, end in run_cohort(specs, shared, lambda _: None, [Door() for _ in specs])]
    for spec, found in zip(specs, ends, strict=True):
        losses = [one.result.curves["loss"][0][1] for one in (found, run_trial(spec, shared))]
        assert losses[0] == near(losses[1], BACKWARD)
