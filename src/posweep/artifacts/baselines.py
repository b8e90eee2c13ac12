"""What every trial is compared with: K responses of the SFT policy per prompt, the data's chosen ones, and K fresh ones.

The SFT policy draws from a noise stream of its own, so that a judge compares responses that are independent given the
prompt; trials share another stream. The fresh responses make the A/A row: SFT against SFT must come out at ½.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from posweep.judges import Judge
from posweep.policy.load import Policy, decode
from posweep.policy.reproducible import stream
from posweep.policy.sample import sample
from posweep.settings import SampleSettings


@dataclass(frozen=True)
class Drawn:
    """Responses to the prompts of one set; `count` per prompt, in prompt order."""

    texts: list[str]
    lengths: list[int]
    truncated: list[bool]
    count: int


@dataclass(frozen=True)
class BaselineScores:
    """One judge's scores: SFT responses (prompts, K), fresh ones (prompts · K,), chosen ones (prompts,)."""

    sft: np.ndarray
    fresh: np.ndarray
    chosen: np.ndarray


def draw(
    policy: Policy, prompts: Sequence[Sequence[int]], name: str, set_name: str, count: int, settings: SampleSettings
) -> Drawn:
    """`count` responses per prompt from the noise stream called `name`."""
    noise = stream(name, settings.seed, set_name).random((len(prompts) * count, settings.max_new_tokens))
    repeated = [prompt for prompt in prompts for _ in range(count)]
    drawn = sample(
        policy, repeated, noise, temperature=settings.temperature, top_p=settings.top_p, batch_size=settings.batch_size
    )
    texts = decode(policy.tokenizer, [one.tokens for one in drawn])
    return Drawn(texts, [len(one.tokens) for one in drawn], [one.truncated for one in drawn], count)


def save_drawn(drawn: Mapping[str, Drawn], file: Path) -> None:
    """Write responses by name."""
    file.write_text(json.dumps({name: vars(value) for name, value in drawn.items()}))


def load_drawn(file: Path) -> dict[str, Drawn]:
    """Read what `save_drawn` wrote."""
    return {name: Drawn(**value) for name, value in json.loads(file.read_text()).items()}


def score_baselines(
    judge: Judge, prompts: Sequence[str], sft: Drawn, fresh: Drawn, chosen: Sequence[str]
) -> BaselineScores:
    """Score everything a trial's responses are compared with."""
    repeated = [prompt for prompt in prompts for _ in range(sft.count)]
    return BaselineScores(
        judge.score(repeated, sft.texts).reshape(len(prompts), sft.count),
        judge.score(repeated, fresh.texts),
        judge.score(prompts, list(chosen)),
    )


def save_scores(scores: BaselineScores, file: Path) -> None:
    """Write the three tables."""
    np.savez(file, **vars(scores))


def load_scores(file: Path) -> BaselineScores:
    """Read what `save_scores` wrote."""
    with np.load(file, allow_pickle=False) as arrays:
        return BaselineScores(arrays["sft"], arrays["fresh"], arrays["chosen"])
