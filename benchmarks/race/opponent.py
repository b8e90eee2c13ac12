"""A trial as a good engineer writes it around TRL: a trainer, `generate`, the judges, MLflow by the usual callback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
import transformers
from clock import Clock
from course import Course
from datasets import disable_progress_bars, load_from_disk
from evaluation import by_set, divergence, encode, generate, measures
from trainers import REFERENCE_FREE, build, settings_of
from transformers import AutoModelForCausalLM, AutoTokenizer

BY_LENGTH = {"train_sampling_strategy": "group_by_length", "remove_unused_columns": False}
"""Batches of similar length, longest first in runs of 15: transformers' own, if lengths lie beside the pairs."""

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
disable_progress_bars()


@dataclass
class Opponent:
    """What a process holds, and how it runs a trial.

    Attributes:
        folder: where pairs and baselines lie, and trainers may write; TRL keeps beside the pairs what it makes of them.
        our_order: whether trainers get posweep's batches.
        by_length: whether their own sampler groups by length.
        keeps: whether weights, tokens and the reference's log-probs stay for the next trial.
        tracked: whether MLflow is told.
    """

    course: Course
    folder: Path
    our_order: bool = False
    by_length: bool = False
    keeps: bool = False
    tracked: bool = True
    _models: tuple[Any, Any, Any] | None = None
    _prepared: dict[bool, Any] = field(default_factory=dict)

    def run(self, trial: Mapping[str, Any], clock: Clock) -> dict[str, Any]:
        """Train and measure one trial; its seconds are those of the clock, stage by stage."""
        with clock.stage("log"):
            run = mlflow.start_run(run_name=trial["key"]) if self.tracked else None
        with clock.stage("model"):
            model, reference, tokenizer = self.models()
        trainer = self.train(trial, model, reference, tokenizer, clock)
        found = self.measure(model, reference, tokenizer, clock)
        with clock.stage("log"):
            if run:
                mlflow.log_metrics(found)
                mlflow.end_run()
        return {
            "key": trial["key"], "method": trial["method"], "seconds": clock.seconds, "measures": found,
            "losses": torch.stack(trainer.losses).tolist(),
        }  # fmt: skip

    def models(self) -> tuple[Any, Any, Any]:
        """The policy with the SFT weights, the SFT model and the tokenizer; if they stay, weights are put back."""
        if self._models is None:
            policy, reference = (AutoModelForCausalLM.from_pretrained(self.course.sft) for _ in range(2))
            self._models = policy, reference.eval(), AutoTokenizer.from_pretrained(self.course.sft)
        elif self.keeps:
            self._models[0].load_state_dict(self._models[1].state_dict())
        return self._models

    def train(
        self, trial: Mapping[str, Any], model: Any, reference: Any, tokenizer: Any, clock: Clock, **others: Any
    ) -> Any:
        """Train the policy; returns the trainer."""
        order, free = self.course.facts["order"][str(trial["seed"])], trial["method"] in REFERENCE_FREE
        with clock.stage("data"):
            pairs = load_from_disk(self.folder / "pairs")
        others = {**(BY_LENGTH if self.by_length else {}), **others}
        settings = settings_of(trial, len(order), self.folder / "trainers" / trial["key"], self.tracked, **others)
        trainer = build(
            trial, settings, model, reference, tokenizer, pairs, clock, order if self.our_order else None,
            self._prepared.get(free),
        )  # fmt: skip
        with clock.stage("log"):
            trainer.train()
        if self.keeps:
            self._prepared[free] = trainer.train_dataset
        return trainer

    def measure(self, model: Any, reference: Any, tokenizer: Any, clock: Clock) -> dict[str, float]:
        """Draw a response to every prompt, compare policies along them, and judge them."""
        sets, model = self.course.facts["prompts"], model.eval()
        with clock.stage("generate"):
            ids = encode(tokenizer, [prompt for prompts in sets.values() for prompt in prompts])
            drawn = generate(model, tokenizer, ids, self.course.facts["max_new_tokens"])
            texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
        with clock.stage("kl"):
            kl = divergence(model, reference, ids, drawn, tokenizer.pad_token_id)
        with clock.stage("judge"), np.load(self.folder / "baselines.npz") as baselines:
            lengths = [len(one) for one in drawn]
            return measures(self.course, baselines, *(by_set(sets, one) for one in (texts, lengths, kl)))
