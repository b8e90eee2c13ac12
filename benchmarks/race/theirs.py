"""The sweep as a loop around TRL: Ray Tune, two workers, one trainer a trial.

    python benchmarks/race/theirs.py COURSE FOLDER OPPONENT

b1: TRL with its own sampler, a fresh process for each trial. b1_by_length: its sampler groups by length. b2: it is fed
posweep's batches. b3: b1 with processes that stay, and with them what TRL lets one keep.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course import WORKERS, Course

OPPONENTS: dict[str, dict[str, bool]] = {
    "b1": {},
    "b1_by_length": {"by_length": True},
    "b2": {"our_order": True},
    "b3": {"keeps": True},
}


def main(course: Course, folder: Path, name: str) -> None:
    """Make what is made once, run every trial on Ray Tune, and write `result.json`."""
    import ray
    from ray import tune

    os.environ.update(surroundings(folder))
    for logger in ("ray", "ray.tune", "ray.air"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    import evaluation  # noqa: F401 - what importing takes is not what making takes
    import mlflow  # noqa: F401
    import transformers  # noqa: F401

    began = time.perf_counter()
    prepare(course, folder)
    made = time.perf_counter() - began
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    work = {"course": str(course.folder), "folder": str(folder), "how": OPPONENTS[name]}
    keeps = OPPONENTS[name].get("keeps", False)
    trainable = tune.with_parameters(lasting() if keeps else once, work=work)
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"trial": tune.grid_search(list(range(len(course.trials))))},
        tune_config=tune.TuneConfig(reuse_actors=keeps),
        run_config=tune.RunConfig(
            storage_path=tempfile.mkdtemp(dir=folder), verbose=0, failure_config=tune.FailureConfig(fail_fast=True),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False) if keeps else None,
        ),
    ).fit()  # fmt: skip
    ray.shutdown()
    trials = [json.loads((folder / f"{trial['key']}.json").read_text()) for trial in course.trials]
    (folder / "result.json").write_text(json.dumps({"once": made, "report": 0.0, "trials": trials}))


def surroundings(folder: Path) -> dict[str, str]:
    """Where MLflow is, and nothing on the way that costs time."""
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_EXPERIMENT_NAME": "race",
        "MLFLOW_DISABLE_TELEMETRY": "true", "RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0", "RAY_DEDUP_LOGS": "0",
        "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }  # fmt: skip


def prepare(course: Course, folder: Path) -> None:
    """The pairs, the tracker's store, and what every trial's responses are compared with."""
    import mlflow
    from evaluation import make_baselines
    from transformers import AutoModelForCausalLM, AutoTokenizer

    course.put_pairs(folder)
    mlflow.set_experiment("race")  # two workers at once would trip over the making of its tables
    model, tokenizer = AutoModelForCausalLM.from_pretrained(course.sft), AutoTokenizer.from_pretrained(course.sft)
    make_baselines(course, model.eval(), tokenizer, folder / "baselines.npz")


def once(config: Mapping[str, Any], work: Mapping[str, Any]) -> None:
    """A trial in a process of its own."""
    from ray import tune

    record(None, config["trial"], work)
    tune.report({"done_trials": 1})


def lasting() -> type:
    """Trials in a process that stays."""
    from ray import tune

    class Trial(tune.Trainable):
        """One actor of Tune, and the trial it is at."""

        def setup(self, config: dict[str, Any], work: Any = None) -> None:
            self.work, self.trial, self.opponent = work, config["trial"], None

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.trial = new_config["trial"]
            return True

        def step(self) -> dict[str, Any]:
            self.opponent = record(self.opponent, self.trial, self.work)
            return {"done": True}

    return Trial


def record(opponent: Any, index: int, work: Mapping[str, Any]) -> Any:
    """Run a trial, write what it came to, and return what its process holds."""
    from clock import Clock

    clock, course, folder = Clock(), Course(Path(work["course"])), Path(work["folder"])
    with clock.stage("import"):
        os.environ.update(surroundings(folder))
        from opponent import Opponent
    opponent = opponent or Opponent(course, folder, **work["how"])
    found = opponent.run(course.trials[index], clock)
    (folder / f"{found['key']}.json").write_text(json.dumps(found))
    return opponent


if __name__ == "__main__":
    main(Course(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
