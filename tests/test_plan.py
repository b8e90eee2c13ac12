"""What a key is made of: everything that determines the numbers, and nothing else."""

import json
import os
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from posweep.errors import ConfigError
from posweep.plan import Plan, detectable_difference, fingerprint, make_plan

from .changed import changed, with_blocks

HEAVY = ("torch", "ray", "mlflow", "transformers", "pandas", "matplotlib", "datasets")
KEYS = ("key", "response_key", "score_key")


def planned(configuration, *blocks, **sweep):
    """The plan with other blocks."""
    return make_plan(with_blocks(configuration, *blocks, **sweep))


def in_another_process(code: str, hash_seed: str = "0") -> str:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True, encoding="utf-8", timeout=60
    ).stdout


PRINT_PLAN = """
from posweep.config import configure
from posweep.plan import make_plan
print(make_plan(configure(["sweep=smoke"])).to_jsonl(), end="")
"""


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_plan_is_the_same_bytes_in_every_process(as_it_stands, hash_seed):
    assert in_another_process(PRINT_PLAN, hash_seed) == make_plan(as_it_stands).to_jsonl()


def test_planning_imports_nothing_heavy():
    """The smoke sweep holds a random block, so Optuna's samplers are used too."""
    code = f"{PRINT_PLAN}\nimport sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert in_another_process(code).splitlines()[-1] == "[]"


def test_a_fingerprint_does_not_know_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": (1, 2), "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})


def test_the_order_of_keys_in_a_file_changes_no_key(as_it_stands):
    one = planned(as_it_stands, {"method": "dpo", "grid": {"beta": [0.1, 0.3], "epochs": [1, 2]}})
    other = planned(as_it_stands, {"grid": {"epochs": [1, 2], "beta": [0.1, 0.3]}, "method": "dpo"})
    assert {spec.key for spec in one} == {spec.key for spec in other}
    assert len(one) == 4


def test_a_number_is_the_same_however_it_is_written(as_it_stands):
    written = [{"beta": 1, "batch_size": 8}, {"beta": 1.0, "batch_size": 8.0}, {"beta": 10e-1, "batch_size": 8}]
    assert len(planned(as_it_stands, {"method": "dpo", "list": written})) == 1


def test_equal_configurations_collapse_into_the_first(as_it_stands):
    """The second block repeats two points of the first, one of them by leaving out the default β 0.1."""
    plan = planned(
        as_it_stands,
        {"method": "dpo", "grid": {"beta": [0.1, 0.3]}},
        {"method": "dpo", "list": [{"gamma": 0.0}, {"beta": 0.3}, {"beta": 0.9}]},
    )
    assert [(spec.hyperparameters["beta"], spec.block) for spec in plan] == [(0.1, 0), (0.3, 0), (0.9, 1)]


def test_seeds_share_a_configuration_and_have_keys_of_their_own(as_it_stands):
    plan = planned(as_it_stands, {"method": "dpo", "grid": {"beta": [0.1, 0.3]}}, seeds=(0, 1, 2))
    assert [spec.seed for spec in plan] == [0, 1, 2, 0, 1, 2]
    assert len({spec.configuration for spec in plan}) == 2
    assert len({spec.key for spec in plan}) == 6


def test_methods_at_the_same_point_are_different_trials(as_it_stands):
    point = {"beta": 2.0, "gamma": 0.0}
    blocks = [{"method": name, "list": [point]} for name in ("dpo", "ln_dpo", "simpo")]
    assert len(planned(as_it_stands, *blocks)) == 3


CHANGES = {
    "key": [
        "train.learning_rate=1e-4", "train.epochs=2", "train.batch_size=16", "train.warmup_ratio=0", "train.threads=2",
        "train.schedule=cosine", "train.weight_decay=0.1", "train.adam_beta2=0.95", "train.max_grad_norm=2",
        "train.bucket_batches=1", "train.prefix_sharing=true",
        "model.tokenizer=bpe", "model.vocabulary_size=128", "model.hidden_size=64",
        "model.layers=2", "model.heads=4", "model.context=256", "model.dtype=bfloat16", "model.seed=1", "model.sft.steps=1",
        "model.sft.batch_size=8", "model.sft.learning_rate=1e-3", "model.sft.warmup_ratio=0", "model.sft.seed=1",
        "data.seed=1", "data.pairs=64", "data.sft_examples=64", "data.length_bias=0", "data.judge_share=0.5",
        "method.dpo.hyperparameters.gamma=0.5", "method.ln_dpo.hyperparameters.gamma=0.5", "sweep.seeds=[1]",
    ],
    "response_key": [
        "data.evaluation_prompts=32", "evaluation.sets=[ood]", "evaluation.prompts=8",
        "evaluation.baseline_responses=8", "train.evaluate_at=[0.5,1.0]", "sample.temperature=0.5", "sample.top_p=0.9",
        "sample.max_new_tokens=24", "sample.seed=1",
    ],
    "score_key": ["judge=[proxy]", "judge=[gold,proxy]"],
    "nothing": [
        "train.micro_batch_size=8", "sample.batch_size=8", "executor.kind=local", "executor=local", "executor.workers=1",
        "executor.fused=4",
        "executor.address=auto", "executor.trial_resources.cpu=2", "executor.trial_resources.gpu=1",
        "executor.trial_resources.gpu_memory=9", "executor.storage=/elsewhere", "executor.wait_minutes=1",
        "executor.retries=1", "executor.stop_after_failures=1", "executor.stop_at_failed_share=1", "train.keep=all",
        "train.checkpoint_minutes=1", "train.checkpoint_steps=1", "search=tpe", "search.kind=tpe", "search.trials=1",
        "search.at_once=1", "search.seed=1", "tracking=none",
        "tracking.kind=none", "tracking.uri=http://x", "output_dir=elsewhere", "sweep.name=other",
        "sweep.primary_metric=iid/mean_score", "method.dpo.grid.beta=[0.9]", "method.ln_dpo.grid.beta=[0.9]",
        "method.simpo.grid.beta=[0.9]", "method.simpo.grid.gamma=[0.9]", "method.dpo.grid.learning_rate=[0.9]",
        "method.ln_dpo.grid.learning_rate=[0.9]", "method.simpo.grid.learning_rate=[0.9]",
    ],
}  # fmt: skip
VARIED_BY_THE_BLOCKS = {f"method.{m}.hyperparameters.beta" for m in ("dpo", "ln_dpo", "simpo")} | {
    "method.simpo.hyperparameters.gamma"
}


@pytest.mark.parametrize(("outermost", "override"), [(k, o) for k, row in CHANGES.items() for o in row])
def test_what_changes_which_key(as_it_stands, composed, outermost, override):
    """The keys are nested: what changes one changes all after it, and none before."""
    before, after = make_plan(as_it_stands), make_plan(changed(composed, override))
    touched = override.split(".")[1] if override.startswith("method.") else ""
    trials = [(a, b) for a, b in zip(before, after, strict=True) if touched in ("", a.method)]
    touched_keys = KEYS[KEYS.index(outermost) :] if outermost in KEYS else ()
    for a, b in trials:
        assert {name for name in KEYS if getattr(a, name) != getattr(b, name)} == set(touched_keys)


def test_every_setting_stands_in_the_table_of_changes(composed):
    def leaves(node, place=""):
        if isinstance(node, dict):
            return [leaf for name, value in node.items() for leaf in leaves(value, f"{place}.{name}".lstrip("."))]
        return [place]

    settings = set(leaves(OmegaConf.to_container(composed)))
    groups = {"data.kind", "model.kind", "judge.gold.kind", "sweep.blocks", "sweep.learning_rates"}
    tried = {override.partition("=")[0] for row in CHANGES.values() for override in row}
    assert settings - groups - VARIED_BY_THE_BLOCKS - tried == set()


def test_jsonl_round_trip(as_it_stands):
    plan = make_plan(as_it_stands)
    assert Plan.from_jsonl("smoke", plan.to_jsonl()) == plan
    assert len(plan.to_jsonl().splitlines()) == len(plan) == 6
    assert list(json.loads(plan.to_jsonl().splitlines()[0])) == sorted(plan.trials[0].to_json())


def test_a_trial_is_found_by_the_beginning_of_its_key(as_it_stands):
    plan = make_plan(as_it_stands)
    for spec in plan:
        assert plan.of(spec.key[:8]) is spec


@pytest.mark.parametrize(("key", "words"), [("zz", "key=zz: no trials of sweep smoke"), ("", "key=: no trials")])
def test_a_key_no_trial_has_is_refused_with_some_that_are(as_it_stands, key, words):
    plan = make_plan(as_it_stands)
    with pytest.raises(ConfigError) as error:
        plan.of(key)
    assert str(error.value).startswith(words)
    assert plan.trials[0].key in str(error.value)


def test_a_key_that_several_trials_begin_with_is_refused(as_it_stands):
    plan = planned(as_it_stands, {"method": "dpo", "grid": {"epochs": list(range(1, 18))}})
    first = [spec.key[0] for spec in plan]
    shared = next(letter for letter in first if first.count(letter) > 1)  # 17 keys, 16 digits
    with pytest.raises(ConfigError, match=f"key={shared}: {first.count(shared)} trials of sweep smoke begin with it"):
        plan.of(shared)


def test_ten_thousand_trials(as_it_stands):
    grid = {"beta": [i / 100 for i in range(1, 101)], "learning_rate": [i * 1e-6 for i in range(1, 101)]}
    plan = planned(as_it_stands, {"method": "dpo", "grid": grid})
    assert len({spec.key for spec in plan}) == len({spec.score_key for spec in plan}) == 10_000


def test_all_mistakes_come_at_once(as_it_stands):
    with pytest.raises(ConfigError) as error:
        planned(as_it_stands, {"method": "dpo", "grid": {"beta": [0, -1]}}, {"method": "dpo", "list": [{"lambda": 1}]})
    assert len(error.value.problems) == 3


@pytest.mark.parametrize(("prompts", "points"), [(88, 0.10), (1000, 0.03), (256, 0.06)])
def test_what_prompts_can_show(prompts, points):
    """0.98/√P: about 10 points with 88 prompts, 3 with 1,000."""
    assert detectable_difference(prompts) == pytest.approx(points, abs=0.005)
