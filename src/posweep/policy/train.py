"""The one optimisation loop. SFT, judges and every method run through it; only the loss differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import get_scheduler

from posweep.errors import ConfigError, Diverged
from posweep.policy.reproducible import stream
from posweep.settings import TrainSettings

CHECK_EVERY = 16
"""Steps between looks at whether the numbers are still finite: each look waits for the device."""


class Losses(NamedTuple):
    """Losses of the items of a (micro-)batch, (items,), and what else to chart: one value per item, detached."""

    losses: Tensor
    charts: Mapping[str, Tensor]


def batches(lengths: np.ndarray, batch_size: int, steps: int, *, window: int = 16, seed: int = 0) -> list[np.ndarray]:
    """Which items each step sees: shuffled per epoch, sorted by length inside windows, windows' batches shuffled.

    Fixed by the lengths and the seed alone. Items left over at the end of an epoch wait for the next.
    """
    if batch_size > len(lengths):
        raise ConfigError(f"batch_size: a step takes {batch_size} items and there are {len(lengths)}.")
    plan: list[np.ndarray] = []
    epoch = 0
    while len(plan) < steps:
        rng = stream("order", seed, epoch)
        order = rng.permutation(len(lengths))
        for start in range(0, len(order) - batch_size + 1, batch_size * window):
            rows = order[start : start + batch_size * window]
            rows = rows[: len(rows) // batch_size * batch_size]
            rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, batch_size)
            plan += list(rows[rng.permutation(len(rows))])
        epoch += 1
    return plan[:steps]


def steps_of(items: int, batch_size: int, epochs: float) -> int:
    """Optimisation steps in `epochs` passes over `items`, at least one."""
    return max(1, round(epochs * (items // batch_size)))


def optimise(
    model: torch.nn.Module,
    plan: Sequence[np.ndarray],
    loss: Callable[[np.ndarray], Losses],
    settings: TrainSettings,
    at: Mapping[int, Callable[[], None]] | None = None,
) -> dict[str, list[list[float]]]:
    """Minimise the mean loss of each batch with AdamW, clipping and a schedule; returns curves as [[step, value], …].

    Args:
        plan: the items of each step; a step's gradient is that of the mean loss over its items, whatever the micro-batch.
        loss: the losses of some items under the current weights.
        at: what to do after a given number of steps.

    Raises:
        Diverged: a loss or gradient norm stopped being finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, settings.adam_beta2),
        weight_decay=settings.weight_decay, fused=True,
    )  # fmt: skip
    schedule = get_scheduler(
        "constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        optimizer, num_warmup_steps=round(settings.warmup_ratio * len(plan)), num_training_steps=len(plan),
    )  # fmt: skip
    optimizer.zero_grad(set_to_none=True)  # a trial that failed half-way may have left a gradient
    history: list[dict[str, Tensor]] = []
    rates: list[float] = []
    for step, items in enumerate(plan, start=1):
        charts = _accumulate(items, loss, settings.micro_batch_size or len(items))
        charts["grad_norm"] = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).detach()
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        history.append(charts)
        if step % CHECK_EVERY == 0 or step == len(plan) or (at and step in at):
            _check_finite(history, step)
        if at and step in at:
            at[step]()
    return _curves(history, rates, settings.max_grad_norm)


def _accumulate(items: np.ndarray, loss: Callable[[np.ndarray], Losses], micro: int) -> dict[str, Tensor]:
    """The gradient of the mean loss over `items`, taken `micro` items at a time; the charted means."""
    total: dict[str, Tensor] = {}
    for start in range(0, len(items), micro):
        part = loss(items[start : start + micro])
        mean = part.losses.sum() / len(items)
        mean.backward()
        for name, values in {"loss": part.losses.detach(), **part.charts}.items():
            total[name] = total.get(name, 0) + values.sum() / len(items)
    return total


def _check_finite(history: list[dict[str, Tensor]], step: int) -> None:
    recent = history[-CHECK_EVERY:]
    for at, charts in enumerate(recent, start=step - len(recent) + 1):
        for name in ("loss", "grad_norm"):
            if not torch.isfinite(charts[name]):
                raise Diverged(at, name.replace("_", " "))


def _curves(history: list[dict[str, Tensor]], rates: list[float], max_norm: float) -> dict[str, list[list[float]]]:
    columns: dict[str, list[float]] = {
        name: torch.stack([charts[name] for charts in history]).tolist() for name in history[0]
    }
    columns["learning_rate"] = rates
    columns["grad_clipped"] = [float(norm > max_norm) for norm in columns["grad_norm"]]
    return {name: [[i + 1, value] for i, value in enumerate(values)] for name, values in columns.items()}


def reset(model: torch.nn.Module, weights: Mapping[str, Any]) -> None:
    """Put the weights back in place, without a reload."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            value.copy_(weights[name])
