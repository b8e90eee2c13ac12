"""What every data source gives: pairs to train on, texts to imitate, pairs for trained judges, pairs to evaluate on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from posweep.records import Example, PreferencePair


@dataclass(frozen=True)
class Preferences:
    """The data of a sweep. No prompt of `judge` stands in `train`, and none of `evaluation` unless that is allowed.

    Attributes:
        train: pairs the trials train on.
        sft: prompts with responses the start checkpoint imitates.
        judge: pairs on prompts no trial sees, for judges that are trained.
        evaluation: held-out pairs by set name, one per prompt; their prompts are what policies answer.
        counts: what was read and what became of it, such as `train/rows` or `iid/dropped: chosen equals rejected`.
        unused: the columns that nothing was read from, by set name; sets without any are left out.
        notes: what a launch should say about that, a sentence each.
    """

    train: tuple[PreferencePair, ...]
    sft: tuple[Example, ...]
    judge: tuple[PreferencePair, ...]
    evaluation: Mapping[str, tuple[PreferencePair, ...]]
    counts: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """What the page says about the data: its counts, and which columns are not used."""
        sets_by_columns: dict[str, list[str]] = {}
        for name, columns in self.unused.items():
            sets_by_columns.setdefault(", ".join(columns), []).append(name)
        told = [f"{columns} ({', '.join(names)})" for columns, names in sets_by_columns.items()]
        counts = {f"data/{name}": count for name, count in self.counts.items()}
        return {**counts, "columns not used": "; ".join(told)} if told else counts

    @property
    def unpaired(self) -> bool:
        """Whether some pairs to train on couple responses to two prompts: data with a label per response."""
        return any(pair.rejected_prompt is not None for pair in self.train)


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
