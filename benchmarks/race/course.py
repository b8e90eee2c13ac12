"""What is raced over, laid out once as plain files that both sides read: policy, pairs, prompts, trials, our order.

The SFT policy is made before the race, since both sides start from it; nothing else is made for either.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

SWEEP = "race"
WORKERS = 2
METHODS = ("dpo", "ln_dpo", "simpo")


@dataclass(frozen=True)
class Course:
    """A folder that says what every runner has to do."""

    folder: Path

    @property
    def sft(self) -> Path:
        """The SFT policy: a Hugging Face folder, which is also posweep's artifact."""
        return next(self.artifact.glob("[!.]*/config.json")).parent

    @property
    def artifact(self) -> Path:
        """The same as posweep looks for it."""
        return self.folder / "artifacts" / "sft"

    @property
    def pairs(self) -> Path:
        """Preference pairs as texts, a data set on disk."""
        return self.folder / "pairs"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything else: `trials`, `prompts` and `chosen` by set, `order` by seed, `settings`, `sample`, `overrides`."""
        return json.loads((self.folder / "course.json").read_text())  # type: ignore[no-any-return]

    @property
    def trials(self) -> list[dict[str, Any]]:
        """Key, method, hyperparameters, training settings and seed of each trial."""
        return self.facts["trials"]  # type: ignore[no-any-return]

    def put_artifact(self, output: Path) -> None:
        """The SFT policy where posweep's sweep finds it ready."""
        shutil.copytree(self.artifact, output / SWEEP / "artifacts" / "sft")

    def put_pairs(self, folder: Path) -> None:
        """The pairs where a loop around TRL finds them, with nothing that was computed from them before."""
        shutil.copytree(self.pairs, folder / "pairs")


def lay_out(folder: Path, count: int, overrides: Sequence[str] = ()) -> Course:
    """Make the SFT policy and write down what is raced over.

    Args:
        count: trials, taken evenly from the demo sweep's.
        overrides: of the configuration, to race over something smaller.
    """
    from posweep import data
    from posweep.artifacts.shared import prepare
    from posweep.artifacts.store import Store
    from posweep.config import configure
    from posweep.plan import make_plan

    demo = ["sweep=demo", *overrides]
    specs = evenly(list(make_plan(configure(demo))), count)
    raced = [*demo, f"sweep.name={SWEEP}", f"sweep.blocks={blocks(specs)}"]
    configuration = configure(raced)
    shutil.rmtree(folder, ignore_errors=True)
    shared = prepare(configuration, Store(folder / "artifacts"), measured=False)
    texts = data.load(configuration.data)
    _write_pairs(texts.train, folder / "pairs")
    sets = {name: texts.evaluation[name][: configuration.evaluation.prompts] for name in configuration.sets}
    facts = {
        "overrides": raced,
        "trials": [spec.to_json() for spec in make_plan(configuration)],
        "prompts": {name: [pair.prompt for pair in pairs] for name, pairs in sets.items()},
        "chosen": {name: [pair.chosen for pair in pairs] for name, pairs in sets.items()},
        "order": _orders(configuration, specs, shared.pairs.lengths()),
        "judges": list(configuration.judges),
        "length_bias": configuration.data.length_bias,  # type: ignore[union-attr]
        "opponents": configuration.evaluation.baseline_responses,
        "max_new_tokens": configuration.sample.max_new_tokens,
    }
    (folder / "course.json").write_text(json.dumps(facts))
    return Course(folder)


def evenly(specs: Sequence[Any], count: int) -> list[Any]:
    """`count` trials, equally many of each method and spread over its grid."""
    per_method = -(-count // len(METHODS))
    chosen = []
    for method in METHODS:
        own = [spec for spec in specs if spec.method == method]
        count = min(per_method, len(own))
        stride = len(own) // count
        chosen += [own[i * stride + i % stride] for i in range(count)]
    return chosen


def blocks(specs: Sequence[Any]) -> str:
    """The trials as blocks of a sweep, in the words of a Hydra override."""
    written = []
    for method in METHODS:
        points = [spec.point for spec in specs if spec.method == method]
        listed = ",".join("{" + ",".join(f"{name}:{value}" for name, value in point.items()) + "}" for point in points)
        if points:
            written.append(f"{{method:{method},prior:custom,list:[{listed}]}}")
    return f"[{','.join(written)}]"


def _write_pairs(pairs: Sequence[Any], folder: Path) -> None:
    """Texts as the demo policy reads them (TRL puts the end token behind a response itself), and what a row measures."""
    from datasets import Dataset

    rows = [
        {
            "prompt": prompted(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected,
            "length": max(len(pair.chosen.split()), len(pair.rejected.split())),
        }
        for pair in pairs
    ]  # fmt: skip
    Dataset.from_list(rows).save_to_disk(folder)


def prompted(prompt: str) -> str:
    """A prompt in the policy's own form."""
    from posweep.policy.texts import ANSWER, BEGIN

    return f"{BEGIN} {prompt} {ANSWER} "


def _orders(configuration: Any, specs: Sequence[Any], lengths: Any) -> dict[str, list[list[int]]]:
    """The pairs of each step by seed, as posweep takes them."""
    from posweep.policy.batch import batches
    from posweep.settings import steps_of

    train = configuration.train
    steps = steps_of(len(lengths), train.batch_size, train.epochs)
    return {
        str(seed): [
            batch.items.tolist()
            for batch in batches(lengths, train.batch_size, steps, window=train.bucket_batches, seed=seed)
        ]
        for seed in {spec.seed for spec in specs}
    }
