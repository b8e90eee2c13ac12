"""What would run and what it costs, before it runs: posweep plan."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from posweep import memory
from posweep.console.base import by_block, duration, fate, open_console, point_of, table_of
from posweep.errors import PreflightError
from posweep.folder import folder_of, running_keys
from posweep.judges.comparison import planned
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.plan import Plan, detectable_difference, largest_batch, make_plan
from posweep.records import TrialResult, TrialSpec
from posweep.settings import Configuration, LlmSettings

FEW = 6
"""Methods that a sentence may list."""


def print_plan(configuration: Configuration) -> None:
    """Trials per block with what is finished, what they can show, and what they cost: time, memory, calls of judges.

    Raises:
        PreflightError: a trial cannot fit into the memory it has.
    """
    plan, console = make_plan(configuration), open_console()
    finished = Ledger(folder_of(configuration)).finished(plan)
    seconds = _seconds_of_a_trial(plan, finished)
    blocks = by_block(plan)
    left = {block: _seconds_left(specs, finished, seconds) for block, specs in blocks.items()}
    table = table_of(
        "block", "method", "prior", "varies", "learning rates", "trials", "finished", "time left", numbers=3
    )
    for block, specs in blocks.items():
        done = sum(spec.key in finished for spec in specs)
        rates, title = _values(specs, "learning_rate"), OBJECTIVES[specs[0].method].title
        counts = (str(len(specs)), str(done), duration(left[block]))
        table.add_row(str(block), title, specs[0].prior, _varies(specs), rates, *counts)
    console.print(table)
    console.print(_cost(configuration, plan, finished, list(left.values())))
    batch = largest_batch(plan)
    console.print(f"memory a trial needs: {memory.summary(configuration, batch, len(plan))}")
    for remark in (*_calls(configuration, plan, finished), *_remarks(configuration, plan)):
        console.print(remark)
    if problems := memory.problems(configuration, batch, len(plan)):
        raise PreflightError(problems)


def print_keys(configuration: Configuration) -> None:
    """One line a trial: its key, its method and point, its seed, and what has become of it."""
    plan, ledger, console = make_plan(configuration), Ledger(folder_of(configuration)), open_console()
    finished, failures, running = ledger.finished(plan), ledger.failures(plan), running_keys(folder_of(configuration))
    table = table_of("key", "method", "point", "seed", "status", configuration.sweep.primary_metric, numbers=1)
    for spec in plan:
        became, result = fate(spec.key, finished, failures, running), finished.get(spec.key)
        score = result.measures.get(configuration.sweep.primary_metric) if result else None
        title, shown = OBJECTIVES[spec.method].title, "" if score is None else f"{score:.3f}"
        table.add_row(spec.key, title, point_of(spec), str(spec.seed), became, shown)
    console.print(table)


def _cost(
    configuration: Configuration, plan: Plan, finished: Mapping[str, TrialResult], left: list[float | None]
) -> str:
    """Trials, time and GPU-hours; the last two are unknown until trials of the same kind have finished."""
    workers, gpus = memory.trials_at_once(configuration), configuration.executor.trial_resources.gpu
    total = None if None in left else sum(seconds or 0.0 for seconds in left)
    hours = "unknown" if total is None else f"{total * gpus / 3600:.1f}"
    return (
        f"{len(plan)} trials, {len(finished)} finished, {len(plan) - len(finished)} left · "
        f"time {duration(total and total / workers)} with {workers} at a time · GPU-hours {hours}"
    )


def _calls(configuration: Configuration, plan: Plan, finished: Mapping[str, TrialResult]) -> list[str]:
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


def _remarks(configuration: Configuration, plan: Plan) -> list[str]:
    """What the plan cannot show: differences smaller than its prompts carry, maxima of unequal numbers."""
    remarks = []
    if prompts := memory.prompts_per_set(configuration):
        remarks.append(
            f"{prompts} prompts per set: a win-rate difference under {100 * detectable_difference(prompts):.0f} points "
            "cannot be told from chance (5 %, power 80 %)."
        )
    sizes = Counter(spec.method for spec in plan)
    if len(set(sizes.values())) > 1:
        usual = Counter(sizes.values()).most_common(1)[0][0]
        named = {m: n for m, n in sizes.items() if n != usual or len(sizes) <= FEW}
        unequal = ", ".join(f"{OBJECTIVES[m].title} {n}" for m, n in named.items())
        rest = "" if len(named) == len(sizes) else f", the others {usual}"
        remarks.append(f"The methods have unequal numbers of trials ({unequal}{rest}): do not compare their maxima.")
    return remarks


def _varies(specs: list[TrialSpec]) -> str:
    """The axes of a block and how many values each has."""
    own = hyperparameters(OBJECTIVES[specs[0].method])
    axes = {name: len({str(spec.point[name]) for spec in specs}) for name in specs[0].varied if name != "learning_rate"}
    return " × ".join(f"{own[name].symbol if name in own else name} {count}" for name, count in axes.items()) or "–"


def _values(specs: list[TrialSpec], name: str) -> str:
    values = sorted({spec.train[name] for spec in specs})
    return " ".join(f"{value:g}" for value in values) if len(values) <= 5 else f"{values[0]:g} … {values[-1]:g}"


def _shape(spec: TrialSpec) -> tuple[Any, ...]:
    """What a trial's duration mostly depends on."""
    return spec.method, spec.train["batch_size"], spec.train["epochs"]


def _seconds_of_a_trial(plan: Plan, finished: Mapping[str, TrialResult]) -> dict[tuple[Any, ...], float]:
    """Mean seconds of finished trials of each method, batch size and number of epochs; diverged ones ended too soon."""
    seconds: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for spec in plan:
        if spec.key in finished and finished[spec.key].status == "finished":
            seconds[_shape(spec)].append(finished[spec.key].seconds["total"])
    return {shape: sum(found) / len(found) for shape, found in seconds.items()}


def _seconds_left(
    specs: list[TrialSpec], finished: Mapping[str, TrialResult], seconds: Mapping[tuple[Any, ...], float]
) -> float | None:
    """Of the trials that are left; None where nothing like one of them has finished."""
    known = [seconds.get(_shape(spec)) for spec in specs if spec.key not in finished]
    return None if None in known else sum(each or 0.0 for each in known)
