"""What every data source gives: pairs to train on, texts to imitate, pairs for trained judges, pairs to evaluate on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from posweep.records import Example, PreferencePair


@dataclass(frozen=True)
class Preferences:
    """The data of a sweep. No prompt of `judge` or `evaluation` stands in `train`.

    Attributes:
        train: pairs the trials train on.
        sft: prompts with responses the start checkpoint imitates.
        judge: pairs on prompts no trial sees, for judges that are trained.
        evaluation: held-out pairs by set name, one per prompt; their prompts are what policies answer.
    """

    train: tuple[PreferencePair, ...]
    sft: tuple[Example, ...]
    judge: tuple[PreferencePair, ...]
    evaluation: Mapping[str, tuple[PreferencePair, ...]]


def split_by_prompt(
    pairs: Sequence[PreferencePair], share: float, seed: int
) -> tuple[tuple[PreferencePair, ...], tuple[PreferencePair, ...]]:
    """Pairs in two parts that share no prompt; the second holds about `share` of the prompts, drawn by `seed`."""
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    drawn = np.random.default_rng([seed, 0x5B117]).permutation(len(prompts))[: round(share * len(prompts))]
    second = {prompts[i] for i in drawn}
    return (
        tuple(pair for pair in pairs if pair.prompt not in second),
        tuple(pair for pair in pairs if pair.prompt in second),
    )
