"""TRL's trainers as the race uses them: each method's trainer and settings, with a clock around what they do."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from clock import Clock
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

LOSS = {"dpo": "sigmoid", "ln_dpo": "sigmoid_norm", "simpo": "simpo"}
"""What TRL calls each method's loss."""
REFERENCE_FREE = ("simpo",)

Order = Sequence[Sequence[int]]


class Timed:
    """Before a trainer among its bases: its stages on a clock, its losses on a list, and batches of somebody else's.

    Args:
        clock: gains `reference`; whoever builds and trains names the stages around it.
        order: the rows of each step; None leaves them to the trainer's own sampler.
    """

    def __init__(self, *arguments: Any, clock: Clock, order: Order | None, **named: Any):
        self.clock, self.order = clock, order
        self.losses: list[torch.Tensor] = []
        super().__init__(*arguments, **named)

    def _precompute_ref_logps(self, *arguments: Any, **named: Any) -> Any:
        with self.clock.stage("reference"):
            return super()._precompute_ref_logps(*arguments, **named)  # type: ignore[misc]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **named: Any) -> Any:
        """The trainer's own loss, which is kept."""
        found = super().compute_loss(model, inputs, return_outputs, **named)  # type: ignore[misc]
        self.losses.append((found[0] if return_outputs else found).detach())
        return found

    def log(self, *arguments: Any, **named: Any) -> None:
        """What the tracker's callback sends along training is not training."""
        with self.clock.stage("log"):
            super().log(*arguments, **named)  # type: ignore[misc]

    def get_train_dataloader(self) -> Any:
        """The trainer's own batches, or those of `order`."""
        if self.order is None:
            return super().get_train_dataloader()  # type: ignore[misc]
        rows = self._remove_unused_columns(self.train_dataset, description="training")  # type: ignore[attr-defined]
        loader = DataLoader(rows, batch_sampler=self.order, collate_fn=self.data_collator)  # type: ignore[attr-defined, arg-type]
        return self.accelerator.prepare(loader)  # type: ignore[attr-defined]


class TimedDPO(Timed, DPOTrainer):
    """DPO and LN-DPO."""


class TimedCPO(Timed, CPOTrainer):
    """SimPO."""


class Lap(TrainerCallback):
    """Takes the steps alone as `train`: what the tracker's callback does before and after them is `log`.

    Attributes:
        processor: seconds of the processor that the steps took.
    """

    def __init__(self, clock: Clock):
        self.clock, self._steps, self.processor = clock, ExitStack(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """The tracker's callback was first, for it came with the trainer."""
        self._steps.enter_context(self.clock.stage("train"))
        self.processor = -time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """After the last step."""
        if state.global_step == state.max_steps:
            self.processor += time.process_time()
            self._steps.close()


def settings_of(trial: Mapping[str, Any], steps: int, folder: Path, tracked: bool, **others: Any) -> dict[str, Any]:
    """What posweep's trial says, in the words of transformers, and what makes TRL fastest on this machine.

    Args:
        others: settings to try in place of these.
    """
    train = trial["train"]
    return {
        "output_dir": str(folder), "run_name": trial["key"], "report_to": "mlflow" if tracked else "none",
        "per_device_train_batch_size": train["batch_size"], "max_steps": steps,
        "learning_rate": train["learning_rate"], "lr_scheduler_type": train["schedule"],
        "warmup_steps": round(train["warmup_ratio"] * steps), "weight_decay": train["weight_decay"],
        "adam_beta2": train["adam_beta2"], "max_grad_norm": train["max_grad_norm"], "optim": "adamw_torch_fused",
        "beta": trial["hyperparameters"]["beta"], "loss_type": LOSS[trial["method"]],
        "seed": trial["seed"], "data_seed": trial["seed"], "dataloader_drop_last": True,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "dataloader_pin_memory": False,
        "save_strategy": "no", "eval_strategy": "no", "logging_steps": 10, "disable_tqdm": True,
        **others,
    }  # fmt: skip


def build(
    trial: Mapping[str, Any], settings: Mapping[str, Any], model: Any, reference: Any, tokenizer: Any, pairs: Any,
    clock: Clock, order: Order | None = None, prepared: Any = None,
) -> Any:  # fmt: skip
    """The method's trainer; the tokens of its data are stage `data`, the reference's log-probs `reference`.

    Args:
        pairs: prompts and responses as texts.
        order: the rows of each step, where the trainer is not to choose.
        prepared: what a trainer of this kind made of the pairs before: tokens, and the reference's log-probs.
    """
    free = trial["method"] in REFERENCE_FREE
    if free:
        own = {"simpo_gamma": trial["hyperparameters"]["gamma"], "cpo_alpha": 0.0}
        kind, arguments, models = TimedCPO, CPOConfig(**{**settings, **own}), {}
    else:
        own = {"precompute_ref_log_probs": True}
        kind, arguments, models = TimedDPO, DPOConfig(**{**settings, **own}), {"ref_model": reference}
    with clock.stage("data"):
        made = kind(
            model, args=arguments, train_dataset=pairs if prepared is None else pairs.select([0]),
            processing_class=tokenizer, clock=clock, order=order, **models,
        )  # fmt: skip
    if prepared is not None:
        made.train_dataset = prepared
    made.lap = Lap(clock)
    made.add_callback(made.lap)
    return made
