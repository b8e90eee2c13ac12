"""What judges behind an endpoint are still to be asked, and what that takes: they cost money."""

from __future__ import annotations

from collections.abc import Mapping

from posweep import memory
from posweep.judges.comparison import planned
from posweep.plan import Plan
from posweep.records import TrialResult
from posweep.settings import Configuration, LlmSettings


def calls(configuration: Configuration, plan: Plan, finished: Mapping[str, TrialResult]) -> list[str]:
    """What each judge behind an endpoint is still to be asked, at most: it remembers, and equal texts are a tie unasked."""
    judges = {name: judge for name, judge in configuration.judges.items() if isinstance(judge, LlmSettings)}
    prompts, trials = memory.prompts_per_set(configuration), len(plan) - len(finished)
    if not trials:
        return [f"judge {name}: 0 calls left" for name in judges]
    if prompts is None:
        return [f"judge {name}: calls unknown (set evaluation.prompts)" for name in judges]
    return [_calls_of(configuration, name, judge, prompts, trials, not finished) for name, judge in judges.items()]


def _calls_of(
    configuration: Configuration, name: str, judge: LlmSettings, prompts: int, trials: int, baseline: bool
) -> str:
    """Calls and tokens: a response meets SFT responses and the chosen one, in both orders; the baseline does so once.

    A token is taken for four characters, and every text for as long as it may be.
    """
    data, new, points = configuration.data, configuration.sample.max_new_tokens, len(configuration.train.evaluate_at)
    responses = len(configuration.sets) * prompts
    met = judge.opponents * (data.max_prompt_tokens + 2 * new)
    met += data.max_prompt_tokens + new + data.max_response_tokens

    def cost(times: int) -> tuple[int, int]:
        return planned(judge, times * responses * (judge.opponents + 1), 4 * times * responses * met)

    calls, tokens = cost(trials * points + baseline)
    factors = [f"{trials} trials", *([f"{points} points of training"] if points > 1 else [])]
    factors += [f"{len(configuration.sets)} sets", f"{prompts} prompts"]
    factors += [f"({judge.opponents} SFT response{'s' * (judge.opponents > 1)} + chosen)", "2 orders"]
    rest = f", and {cost(1)[0]:,} for the baseline" if baseline else ""
    return f"judge {name}: {calls:,} calls, about {_tokens(tokens)} tokens ({' × '.join(factors)}{rest})"


def _tokens(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,}"
