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

from posweep.judges import Judge, PairwiseJudge
from posweep.policy.base import Policy
from posweep.policy.reproducible import stream
from posweep.policy.sample import sample
from posweep.records import Prompt
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


@dataclass(frozen=True)
class BaselineWins:
    """What a judge that compares made of fresh SFT responses, (prompts · K,): it has no scores to keep.

    To ask it less it is shown the first fresh response of each prompt, whose wins stand for all K of them.
    """

    vs_sft: np.ndarray
    vs_chosen: np.ndarray


def draw(
    policy: Policy, prompts: Sequence[Sequence[int]], name: str, set_name: str, count: int, settings: SampleSettings
) -> Drawn:
    """`count` responses per prompt from the noise stream called `name`."""
    noise = stream(name, settings.seed, set_name).random((len(prompts) * count, settings.max_new_tokens))
    repeated = [prompt for prompt in prompts for _ in range(count)]
    drawn = sample(
        policy, repeated, noise, temperature=settings.temperature, top_p=settings.top_p, batch_size=settings.batch_size
    )
    texts = policy.texts.decode([one.tokens for one in drawn])
    return Drawn(texts, [len(one.tokens) for one in drawn], [one.truncated for one in drawn], count)


def save_drawn(drawn: Mapping[str, Drawn], file: Path) -> None:
    """Write responses by name."""
    file.write_text(json.dumps({name: vars(value) for name, value in drawn.items()}), encoding="utf-8")


def load_drawn(file: Path) -> dict[str, Drawn]:
    """Read what `save_drawn` wrote."""
    return {name: Drawn(**value) for name, value in json.loads(file.read_text(encoding="utf-8")).items()}


def score_baselines(
    judge: Judge, prompts: Sequence[Prompt], drawn: Mapping[str, Drawn], chosen: Sequence[str]
) -> BaselineScores:
    """Score everything a trial's responses are compared with."""
    sft, fresh = drawn["sft"], drawn["fresh"]
    repeated = [prompt for prompt in prompts for _ in range(sft.count)]
    return BaselineScores(
        judge.score(repeated, sft.texts).reshape(len(prompts), sft.count),
        judge.score(repeated, fresh.texts),
        judge.score(prompts, list(chosen)),
    )


def compare_baselines(
    judge: PairwiseJudge, prompts: Sequence[Prompt], drawn: Mapping[str, Drawn], chosen: Sequence[str]
) -> BaselineWins:
    """Compare fresh SFT responses with what a trial's responses are compared with."""
    fresh = drawn["fresh"]
    first = fresh.texts[:: fresh.count]
    against = (met(drawn["sft"], judge.opponents), [[text] for text in chosen])
    return BaselineWins(*(compared(judge, prompts, first, one).repeat(fresh.count) for one in against))


def met(drawn: Drawn, opponents: int) -> list[list[str]]:
    """The responses of the SFT model that a judge which compares is shown, by prompt."""
    return [drawn.texts[at : at + opponents] for at in range(0, len(drawn.texts), drawn.count)]


def compared(
    judge: PairwiseJudge, prompts: Sequence[Prompt], responses: Sequence[str], opponents: Sequence[Sequence[str]]
) -> np.ndarray:
    """How often each response beats its opponents, equally many for each, (responses,)."""
    count = len(opponents[0])
    rows = [(p, r, o) for p, r, against in zip(prompts, responses, opponents, strict=True) for o in against]
    found = judge.compare([p for p, _, _ in rows], [r for _, r, _ in rows], [o for _, _, o in rows])
    return np.asarray(found.reshape(-1, count).mean(axis=1))


def save_judged(judged: BaselineScores | BaselineWins, folder: Path) -> None:
    """Write the tables of either kind."""
    np.savez(folder / "judged.npz", **vars(judged))


def load_judged(folder: Path) -> BaselineScores | BaselineWins:
    """Read what `save_judged` wrote."""
    with np.load(folder / "judged.npz", allow_pickle=False) as arrays:
        kind = BaselineScores if "sft" in arrays.files else BaselineWins
        return kind(**{name: arrays[name] for name in arrays.files})
