"""Which response is better. One module a judge; `open_judge` is the one place that knows them all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from posweep import hub
from posweep.fields import fingerprint
from posweep.judges.base import Judge, PairwiseJudge, wins
from posweep.judges.cache import CachedJudge, CachedPairwiseJudge, Judgements
from posweep.judges.gold import GoldJudge, ProxyJudge
from posweep.settings import (
    BradleyTerrySettings,
    Configuration,
    DemoData,
    GoldJudgeSettings,
    JudgeSettings,
    LlmSettings,
    PairwiseModelSettings,
    RewardModelSettings,
)

if TYPE_CHECKING:
    from typing_extensions import TypeIs


def open_judge(
    name: str, configuration: Configuration, store: Path, made: Path | None, sft: Any, device: str
) -> Judge | PairwiseJudge:
    """The judge of that name, ready to judge.

    Args:
        store: where artifacts lie, and with them what judges have said before.
        made: the weights of a judge that was trained for this sweep.
        sft: the SFT policy; a judge made from it reads and computes likewise.
    """
    match settings := configuration.judges[name]:
        case GoldJudgeSettings():
            return GoldJudge()
        case BradleyTerrySettings():
            from posweep.judges.bradley_terry import load_judge

            assert made is not None
            return load_judge(made, sft, limits(configuration))
        case RewardModelSettings():
            from posweep.judges.reward_model import open_reward_model

            return CachedJudge(open_reward_model(settings, device, f"judge.{name}"), judgements(settings, store))
        case PairwiseModelSettings():
            from posweep.judges.pairwise_model import open_pairwise_model

            return CachedPairwiseJudge(
                open_pairwise_model(settings, device, f"judge.{name}"), judgements(settings, store)
            )
        case LlmSettings():
            from posweep.judges.llm import LlmJudge

            return CachedPairwiseJudge(LlmJudge(settings, f"judge.{name}"), judgements(settings, store))
        case _:
            assert isinstance(configuration.data, DemoData)
            return ProxyJudge(configuration.data.length_bias)


def compares(judge: Judge | PairwiseJudge) -> TypeIs[PairwiseJudge]:
    """Whether a judge compares two responses and gives no score to one."""
    return hasattr(judge, "compare")


def judgements(settings: JudgeSettings, store: Path) -> Judgements:
    """What a judge has said before in this sweep; another revision of it is another judge.

    How many opponents a response meets is no part of it: it changes no judgement.
    """
    known = {name: value for name, value in hub.identity(settings).items() if name != "opponents"}
    return Judgements(store / "judgements" / f"{fingerprint([known, getattr(settings, 'commit', '')])}.sqlite")


def judge_problems(configuration: Configuration) -> list[str]:
    """What stands in the way of judges that are models or endpoints, before anything is trained; a sentence each."""
    found: list[str] = []
    for name, settings in configuration.judges.items():
        match settings:
            case RewardModelSettings():
                from posweep.judges import reward_model

                found += reward_model.problems(settings, f"judge.{name}")
            case PairwiseModelSettings():
                from posweep.judges import pairwise_model

                found += pairwise_model.problems(settings, f"judge.{name}")
            case LlmSettings():
                from posweep.judges import llm

                found += llm.problems(settings, f"judge.{name}")
    return found


def judge_notices(configuration: Configuration) -> list[str]:
    """What a user should know of judges that the preflight has asked; a sentence each."""
    from posweep.judges import llm

    llms = {name: judge for name, judge in configuration.judges.items() if isinstance(judge, LlmSettings)}
    return [notice for name, judge in llms.items() for notice in llm.notices(judge, f"judge.{name}")]


def judge_counters(configuration: Configuration, store: Path) -> dict[str, float]:
    """What judges have counted in this sweep so far: `judge/<name>/<what>`."""
    counted: dict[str, float] = {}
    for name, settings in configuration.judges.items():
        if isinstance(settings, RewardModelSettings | PairwiseModelSettings | LlmSettings):
            counters = judgements(settings, store).counters()
            counted |= {f"judge/{name}/{what}": value for what, value in counters.items()}
    return counted


def limits(configuration: Configuration) -> tuple[int, int]:
    """Tokens of a prompt and of a response that a trained judge reads; a response may be as long as it may be drawn."""
    data = configuration.data
    return data.max_prompt_tokens, max(data.max_response_tokens, configuration.sample.max_new_tokens)


__all__ = [
    "GoldJudge", "Judge", "PairwiseJudge", "ProxyJudge", "compares", "judge_counters", "judge_notices", "judge_problems",
    "limits", "open_judge", "wins",
]  # fmt: skip
