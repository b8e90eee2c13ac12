"""A reward model trained on pairs that no trial sees: the chance that y is preferred to y′ is σ(r(x,y) − r(x,y′))."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from posweep.data.base import split_by_prompt
from posweep.policy.base import Policy, onto
from posweep.policy.batch import Losses, PerItem, batches
from posweep.policy.load import load_reward_model, new_reward_model, save_policy
from posweep.policy.train import optimise
from posweep.records import PreferencePair, Prompt
from posweep.settings import BradleyTerrySettings, TrainSettings, steps_of

FACTS = "facts.json"


@dataclass(frozen=True)
class BradleyTerryJudge:
    """The trained reward model; scores are in log-odds of being preferred."""

    policy: Policy
    limits: tuple[int, int]

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """r(x, y) of each response, in batches of similar length."""
        rows = self.encode(prompts, responses)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        scores = np.empty(len(rows))
        for start in range(0, len(order), batch_size):
            items = order[start : start + batch_size]
            with torch.inference_mode():
                scores[items] = self.rewards([rows[i] for i in items]).cpu().numpy()
        return scores

    def encode(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[list[int]]:
        """Prompt and response in tokens, one list each."""
        left = self.policy.texts.prompts(prompts, self.limits[0]).rows
        right = self.policy.texts.responses(responses, self.limits[1]).rows
        return [p + r for p, r in zip(left, right, strict=True)]

    def rewards(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """r(x, y) read off the last token of each row, (rows,)."""
        longest, pad, device = max(map(len, rows)), self.policy.pad, self.policy.device
        ids = onto(device, [[*row, *[pad] * (longest - len(row))] for row in rows])
        last = onto(device, [len(row) - 1 for row in rows])
        with self.policy.products():
            hidden = self.policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            found = self.policy.model.score(hidden[torch.arange(len(rows), device=device), last])[:, 0]
        return found.float()  # type: ignore[no-any-return]


def train_judge(
    settings: BradleyTerrySettings, sft: Policy, pairs: Sequence[PreferencePair], limits: tuple[int, int], folder: Path,
    micro_batch_size: int | None = None,
) -> None:  # fmt: skip
    """Train from the SFT weights on most of the prompts, measure on the rest, and write a Hugging Face folder.

    `facts.json` holds the held-out accuracy and, beside it, what "the longer wins" would have got.
    """
    training, held_out = split_by_prompt(pairs, settings.held_out, settings.seed)
    judge = BradleyTerryJudge(new_reward_model(sft, settings.seed), limits)
    chosen = judge.encode([p.prompt for p in training], [p.chosen for p in training])
    rejected = judge.encode([p.prompt for p in training], [p.rejected for p in training])

    def loss(items: np.ndarray) -> Losses:
        rewards = judge.rewards([chosen[i] for i in items] + [rejected[i] for i in items])
        return Losses(torch.nn.functional.softplus(rewards[len(items) :] - rewards[: len(items)]), {})

    lengths = np.array([len(c) + len(r) for c, r in zip(chosen, rejected, strict=True)])
    batch_size = min(settings.batch_size, len(training))
    steps = steps_of(len(training), batch_size, settings.epochs)
    loop = TrainSettings(learning_rate=settings.learning_rate, micro_batch_size=micro_batch_size)
    plan = batches(lengths, batch_size, steps, seed=settings.seed)
    judge.policy.model.train()
    optimise(judge.policy.model, plan, PerItem(loss), loop)
    judge.policy.model.eval()
    save_policy(judge.policy, folder)
    (folder / FACTS).write_text(json.dumps(_facts(judge, training, held_out), indent=1), encoding="utf-8")


def load_judge(folder: Path, sft: Policy, limits: tuple[int, int]) -> BradleyTerryJudge:
    """Read what `train_judge` wrote; it reads and computes as the SFT model does."""
    return BradleyTerryJudge(load_reward_model(folder, sft), limits)


def _facts(
    judge: BradleyTerryJudge, training: Sequence[PreferencePair], held_out: Sequence[PreferencePair]
) -> dict[str, float]:
    """Accuracy on pairs whose prompts the judge never saw, and of the rule that the longer response (in characters) wins."""
    prompts = [pair.prompt for pair in held_out]
    margin = judge.score(prompts, [p.chosen for p in held_out]) - judge.score(prompts, [p.rejected for p in held_out])
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in held_out])
    return {
        "training_pairs": len(training),
        "held_out_pairs": len(held_out),
        "held_out_accuracy": _accuracy(margin),
        "longer_wins_accuracy": _accuracy(longer),
    }


def _accuracy(margins: np.ndarray) -> float:
    return float(((margins > 0) + 0.5 * (margins == 0)).mean())
