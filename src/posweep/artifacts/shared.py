"""Everything a trial finds ready: made on the first call for a sweep, only read on every other, in whichever process."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from posweep import data
from posweep.artifacts.baselines import (
    BaselineScores,
    BaselineWins,
    Drawn,
    compare_baselines,
    draw,
    load_drawn,
    load_judged,
    save_drawn,
    save_judged,
    score_baselines,
)
from posweep.artifacts.pairs import TokenPairs, encode_pairs, load_pairs, save_pairs
from posweep.artifacts.reference import (
    ReferenceLogps,
    load_mismatched,
    load_reference,
    load_token_logps,
    save_mismatched,
    save_reference,
    save_token_logps,
)
from posweep.artifacts.sft import is_given, make_sft
from posweep.artifacts.store import Store
from posweep.data import Preferences
from posweep.fields import plain
from posweep.judges import Judge, PairwiseJudge, compares, judge_counters, limits, open_judge
from posweep.objectives import OBJECTIVES, Need, needs
from posweep.plan import shared_fingerprints
from posweep.policy.allocator import keep_memory
from posweep.policy.base import Policy
from posweep.policy.load import load_policy, trained
from posweep.policy.pretrained import folder_of
from posweep.policy.reproducible import threads
from posweep.records import PreferencePair, Prompt
from posweep.settings import BradleyTerrySettings, Configuration, HubModel


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out prompts with everything a trial's responses to them are compared with; what each judge made of that."""

    name: str
    prompts: list[Prompt]
    pairs: TokenPairs
    reference: ReferenceLogps
    sft: Drawn
    fresh: Drawn
    chosen: list[str]
    scores: Mapping[str, BaselineScores | BaselineWins]

    @property
    def chosen_lengths(self) -> list[int]:
        """Tokens of the chosen responses."""
        return [len(tokens) for tokens in self.pairs.chosen]


@dataclass(frozen=True)
class Shared:
    """What a worker holds while it runs trials: weights, tokens, reference log-probs, baselines, judges.

    `weights` are those that training changes, as every trial starts from them.
    """

    configuration: Configuration
    policy: Policy
    reference: Policy
    weights: Mapping[str, torch.Tensor]
    pairs: TokenPairs
    pair_logps: ReferenceLogps
    evaluation: tuple[EvaluationSet, ...]
    judges: Mapping[str, Judge | PairwiseJudge]
    facts: Mapping[str, Any]


def prepare(
    configuration: Configuration, store: Store, device: str = "cpu", measured: bool = True,
    fingerprints: Mapping[str, Any] | None = None, preferences: Preferences | None = None,
) -> Shared:  # fmt: skip
    """Make what is missing, then read everything; the numbers are the same whether it was there or not.

    Args:
        measured: whether policies are to be measured; if not, evaluation sets and judges are left out.
        fingerprints: what `shared_fingerprints` found on another machine; None computes them.
        preferences: the data as another machine read it; None reads it when something has to be made from it.
    """
    keep_memory()
    with threads(configuration.train.threads):
        found = fingerprints or shared_fingerprints(configuration)
        return _Preparation(configuration, store, device, measured, found, preferences).shared()


def release() -> None:
    """Give a GPU's memory back, once nothing that was prepared on it is held any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class _Preparation:
    """The order in which artifacts are made; each names what determines it."""

    def __init__(
        self, configuration: Configuration, store: Store, device: str, measured: bool, fingerprints: Mapping[str, Any],
        preferences: Preferences | None = None,
    ):  # fmt: skip
        self.configuration, self.store, self.device = configuration, store, device
        self.judged = configuration.judges if measured else {}
        self.sets = configuration.sets if measured else ()
        self.fingerprints, self.preferences = fingerprints, preferences

    @cached_property
    def needs(self) -> set[Need]:
        """What the sweep's methods need beyond sums and lengths."""
        return {need for method in self.configuration.methods for need in needs(OBJECTIVES[method])}

    @cached_property
    def data(self) -> Preferences:
        """Read or generated only when something has to be made from it."""
        return self.preferences or data.load(self.configuration.data, self.configuration.evaluation.sources)

    @cached_property
    def base(self) -> dict[str, Any]:
        """What determines the SFT policy, and with it everything else."""
        return {name: self.fingerprints[name] for name in ("schema", "train_data", "model")}

    @cached_property
    def sft_folder(self) -> Path:
        """Where the SFT policy lies: a folder of ours, or where the model itself is if it needs no training."""
        if isinstance(self.configuration.model, HubModel) and is_given(self.configuration):
            return folder_of(self.configuration.model)
        return self.store.get("sft", self.base, lambda f: make_sft(self.configuration, self.data, f, self.device))

    @cached_property
    def policy(self) -> Policy:
        """What trials train, as every one of them finds it."""
        return load_policy(self.configuration.model, self.sft_folder, self.device)

    @cached_property
    def sft(self) -> Policy:
        """The SFT policy, which is the reference: the trained weights' own base where adapters are trained, else a copy."""
        if self.policy.adapted:
            return self.policy.without_adapter()
        return load_policy(self.configuration.model, self.sft_folder, self.device)

    def shared(self) -> Shared:
        """Everything, made where it is missing."""
        policy, sft = self.policy, self.sft
        folder = self.store.get("pairs", self.base, self._make_training_pairs)
        folders = {name: self._judge(name) for name in self.judged}
        judges = {
            name: open_judge(name, self.configuration, self.store.root, made, sft, self.device)
            for name, made in folders.items()
        }
        evaluation = tuple(self._evaluation_set(name, judges) for name in self.sets)
        return Shared(
            configuration=self.configuration,
            policy=policy,
            reference=sft,
            weights={n: v.clone() for n, v in trained(policy).items()} if policy.adapted else trained(sft),
            pairs=(pairs := load_pairs(folder / "pairs.npz")),
            pair_logps=self._reference(folder, self.base, pairs),
            evaluation=evaluation,
            judges=judges,
            facts={
                **self._text_facts(folder),
                **_judge_facts(folders),
                **judge_counters(self.configuration, self.store.root),
            },
        )

    def _text_facts(self, folder: Path) -> dict[str, Any]:
        """How many prompts and responses were cut, and what ends a response."""
        cut = {"train": folder, **{name: self._baselines(name)[1] for name in self.sets}}
        counts = {name: json.loads((where / "cut.json").read_text(encoding="utf-8")) for name, where in cut.items()}
        facts = {f"data/{name}/{what}": n for name, found in counts.items() for what, n in found.items()}
        return {**facts, "responses end with": self.sft.texts.ends_text}

    def _make_training_pairs(self, folder: Path) -> None:
        self._write_pairs(self.data.train, folder)

    def _write_pairs(self, pairs: Sequence[PreferencePair], folder: Path) -> None:
        settings = self.configuration.data
        tokens, cut = encode_pairs(self.sft.texts, pairs, settings.max_prompt_tokens, settings.max_response_tokens)
        save_pairs(tokens, folder / "pairs.npz")
        (folder / "cut.json").write_text(json.dumps(cut), encoding="utf-8")
        save_reference(self.sft, tokens, folder / "reference.npz")

    def _reference(self, folder: Path, content: Mapping[str, Any], pairs: TokenPairs) -> ReferenceLogps:
        """What the reference makes of some pairs; the extras only where a method of the sweep asks for them."""
        sums, device = load_reference(folder / "reference.npz", self.sft.device), self.sft.device
        mismatched = by_token = None
        if "mismatched" in self.needs:
            write = partial(save_mismatched, self.sft, pairs)
            made = self.store.get("mismatched", content, lambda f: write(f / "mismatched.npz"))
            mismatched = load_mismatched(made / "mismatched.npz", pairs, device)
        if self.needs & {"sampled", "shared"}:
            score = partial(save_token_logps, self.sft, pairs)
            made = self.store.get("token_logps", content, lambda f: score(f / "token_logps.npz"))
            by_token = load_token_logps(made / "token_logps.npz")
        return ReferenceLogps(sums.chosen, sums.rejected, mismatched, by_token)

    def _judge(self, name: str) -> Path | None:
        """The folder of a judge that has to be trained; None for one that is a rule."""
        settings = self.configuration.judges[name]
        if not isinstance(settings, BradleyTerrySettings):
            return None
        from posweep.judges.bradley_terry import train_judge

        bounds = limits(self.configuration)
        content = {**self.base, "judge": plain(settings), "limits": bounds}
        micro = self.configuration.train.micro_batch_size
        return self.store.get(
            "judge", content, lambda f: train_judge(settings, self.sft, self.data.judge, bounds, f, micro)
        )

    def _baselines(self, name: str) -> tuple[dict[str, Any], Path]:
        """What determines a set's prompts and baseline responses, and where they lie."""
        content = {**self.base, "set": name, **{k: self.fingerprints[k] for k in ("evaluation_data", "sampling")}}
        return content, self.store.get("baselines", content, lambda f: self._make_baselines(name, f))

    def _evaluation_set(self, name: str, judges: Mapping[str, Judge | PairwiseJudge]) -> EvaluationSet:
        content, folder = self._baselines(name)
        texts = [
            PreferencePair.from_json(row) for row in json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        ]
        drawn, pairs = load_drawn(folder / "responses.json"), load_pairs(folder / "pairs.npz")
        prompts, chosen = [pair.prompt for pair in texts], [pair.chosen for pair in texts]

        def judged(name: str, judge: Judge | PairwiseJudge) -> BaselineScores | BaselineWins:
            key = {**content, "judge": self.fingerprints["judges"][name], "limits": limits(self.configuration)}

            def judge_baselines() -> BaselineScores | BaselineWins:
                if compares(judge):
                    return compare_baselines(judge, prompts, drawn, chosen)
                return score_baselines(judge, prompts, drawn, chosen)

            return load_judged(self.store.get("scores", key, lambda f: save_judged(judge_baselines(), f)))

        return EvaluationSet(
            name, prompts, pairs, self._reference(folder, content, pairs), drawn["sft"], drawn["fresh"], chosen,
            {name: judged(name, judge) for name, judge in judges.items()},
        )  # fmt: skip

    def _make_baselines(self, name: str, folder: Path) -> None:
        settings = self.configuration
        pairs = self.data.evaluation[name][: settings.evaluation.prompts]
        self._write_pairs(pairs, folder)
        prompts = load_pairs(folder / "pairs.npz").prompts
        (folder / "texts.json").write_text(json.dumps([pair.to_json() for pair in pairs]), encoding="utf-8")
        count = settings.evaluation.baseline_responses
        drawn = {
            "sft": draw(self.sft, prompts, "sft", name, count, settings.sample),
            "fresh": draw(self.sft, prompts, "fresh sft", name, count, settings.sample),
        }
        save_drawn(drawn, folder / "responses.json")


def _judge_facts(folders: Mapping[str, Path | None]) -> dict[str, Any]:
    """What trained judges said of themselves: `judge/<name>/<fact>`."""
    facts: dict[str, Any] = {}
    for name, folder in folders.items():
        file = folder / "facts.json" if folder else None
        if file and file.is_file():
            facts |= {
                f"judge/{name}/{fact}": value for fact, value in json.loads(file.read_text(encoding="utf-8")).items()
            }
    return facts
