"""What the verbs print: the plan before it runs, what became of it, one trial, the summary at the end."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from posweep import memory
from posweep.errors import ConfigError, PreflightError
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
    plan, console = make_plan(configuration), _console()
    finished = Ledger(folder_of(configuration)).finished(plan)
    seconds = _seconds_of_a_trial(plan, finished)
    blocks = _by_block(plan)
    left = {block: _seconds_left(specs, finished, seconds) for block, specs in blocks.items()}
    table = _table("block", "method", "prior", "varies", "learning rates", "trials", "finished", "time left", numbers=3)
    for block, specs in blocks.items():
        done = sum(spec.key in finished for spec in specs)
        rates, title = _values(specs, "learning_rate"), OBJECTIVES[specs[0].method].title
        counts = (str(len(specs)), str(done), _duration(left[block]))
        table.add_row(str(block), title, specs[0].prior, _varies(specs), rates, *counts)
    console.print(table)
    console.print(_cost(configuration, plan, finished, list(left.values())))
    batch = largest_batch(plan)
    console.print(f"memory a trial needs: {memory.summary(configuration, batch, len(plan))}")
    for remark in (*_calls(configuration, plan, finished), *_remarks(configuration, plan)):
        console.print(remark)
    if problems := memory.problems(configuration, batch, len(plan)):
        raise PreflightError(problems)


def _cost(
    configuration: Configuration, plan: Plan, finished: Mapping[str, TrialResult], left: list[float | None]
) -> str:
    """Trials, time and GPU-hours; the last two are unknown until trials of the same kind have finished."""
    workers, gpus = memory.trials_at_once(configuration), configuration.executor.trial_resources.gpu
    total = None if None in left else sum(seconds or 0.0 for seconds in left)
    hours = "unknown" if total is None else f"{total * gpus / 3600:.1f}"
    return (
        f"{len(plan)} trials, {len(finished)} finished, {len(plan) - len(finished)} left · "
        f"time {_duration(total and total / workers)} with {workers} at a time · GPU-hours {hours}"
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


def print_keys(configuration: Configuration) -> None:
    """One line a trial: its key, its method and point, its seed, and what has become of it."""
    plan, ledger, console = make_plan(configuration), Ledger(folder_of(configuration)), _console()
    finished, failures, running = ledger.finished(plan), ledger.failures(plan), running_keys(folder_of(configuration))
    table = _table("key", "method", "point", "seed", "status", configuration.sweep.primary_metric, numbers=1)
    for spec in plan:
        became, result = _status(spec.key, finished, failures, running), finished.get(spec.key)
        score = result.measures.get(configuration.sweep.primary_metric) if result else None
        title, shown = OBJECTIVES[spec.method].title, "" if score is None else f"{score:.3f}"
        table.add_row(spec.key, title, _point(spec), str(spec.seed), became, shown)
    console.print(table)


def print_status(configuration: Configuration) -> None:
    """Finished, running, failed, diverged and left per method; failures with their first line and their log."""
    folder = folder_of(configuration)
    plan, ledger, console = make_plan(configuration), Ledger(folder), _console()
    finished, failures = ledger.finished(plan), ledger.failures(plan)
    running = running_keys(folder)
    table = _table("method", "trials", "finished", "running", "failed", "diverged", "left", numbers=6)
    for method, specs in _by_method(plan).items():
        became = Counter(_status(spec.key, finished, failures, running) for spec in specs)
        columns = ("finished", "running", "failed", "diverged", "left")
        table.add_row(OBJECTIVES[method].title, str(len(specs)), *(str(became[name]) for name in columns))
    console.print(table)
    for key, failure in failures.items():
        if key not in finished:
            console.print(f"{key}  {failure.error}: {failure.message}\n    log: {failure.log}", markup=False)


def print_trial(configuration: Configuration, key: str) -> None:
    """Run one trial in this process, without recording it, and print its measures."""
    from posweep.alone import check_device, run_alone

    check_device(configuration)
    spec, console = make_plan(configuration).of(key), _console()
    console.print(f"{OBJECTIVES[spec.method].title} {_point(spec)} seed {spec.seed} · key {spec.key}", markup=False)
    result = run_alone(configuration, spec, lambda text: console.print(text, markup=False))
    table = _table("measure", "value", "± standard error", numbers=2)
    for name, value in result.measures.items():
        if not name.endswith("_se"):
            error = result.measures.get(f"{name}_se")
            table.add_row(name, f"{value:.4f}", "" if error is None else f"{error:.4f}")
    console.print(table)
    console.print(f"{result.status} in {result.seconds['total']:.1f} s {result.message}", markup=False)
    before = Ledger(folder_of(configuration)).result(spec.key)
    if before and before.score_key == spec.score_key:
        same = dict(before.measures) == dict(result.measures)
        console.print(f"The ledger holds {'the same' if same else 'OTHER'} numbers for this trial.")


def print_export(configuration: Configuration, key: str, to: str, merged: bool) -> None:
    """Write the policy of one trial as a Hugging Face folder, and say where it is.

    Raises:
        ConfigError: the folder holds something already.
    """
    from posweep.alone import check_device, export

    check_device(configuration)
    spec, console = make_plan(configuration).of(key), _console()
    folder = Path(to).expanduser().absolute() if to else folder_of(configuration) / "exported" / spec.key
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"to: {folder} holds something already; name a folder that is empty or not there.")
    console.print(f"{OBJECTIVES[spec.method].title} {_point(spec)} seed {spec.seed} · key {spec.key}", markup=False)
    export(configuration, spec, folder, merged, lambda text: console.print(text, markup=False))
    console.print(f"{'Written' if merged else 'Adapters written'} to {folder}", markup=False)


def print_summary(folder: Path, best: str = "chosen on half of the prompts, scored on the other") -> None:
    """The table of summary.json, and the page to open next; `best` says how that column was found."""
    summary, console = json.loads((folder / "summary.json").read_text()), _console()
    names = ("trials", "finished", "diverged", "failed", "best", "median", "iqm", "p10", "share_beating_sft")
    table = _table("method", *(name.replace("_", " ") for name in names), numbers=len(names))
    for method, row in summary["methods"].items():
        cells = (row[name] for name in names)
        table.add_row(
            OBJECTIVES[method].title if method in OBJECTIVES else escape(method),
            *("–" if c is None else f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells),
        )
    console.print(f"{summary['primary_metric']}, over configurations (best: {best}; diverged dropped)")
    console.print(table)
    console.print(f"Open {folder / 'report.html'}")


def print_comparison(folder: Path) -> None:
    """The interquartile mean of every method on every sweep, and the page to open next."""
    found, console = json.loads((folder / "summary.json").read_text())["sweeps"], _console()
    table = _table("method", *map(escape, found), numbers=len(found))
    for method in dict.fromkeys(method for summary in found.values() for method in summary["methods"]):
        cells = (summary["methods"].get(method, {}).get("iqm") for summary in found.values())
        title = OBJECTIVES[method].title if method in OBJECTIVES else escape(method)
        table.add_row(title, *("–" if cell is None else f"{cell:.3f}" for cell in cells))
    metrics = ", ".join(f"{name}: {summary['primary_metric']}" for name, summary in found.items())
    console.print(f"Interquartile mean over configurations ({metrics}; diverged dropped)", markup=False)
    console.print(table)
    console.print(f"Open {folder / 'report.html'}", markup=False)


def print_facts(facts: Mapping[str, Any]) -> None:
    """What a report says of where it comes from, a line each."""
    for name, value in facts.items():
        _console().print(f"{name}: {value}", markup=False)


def _console() -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=160)


def _table(*columns: str, numbers: int) -> Table:
    """A plain table whose last `numbers` columns are right-aligned."""
    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i >= len(columns) - numbers else "left")
    return table


def _by_block(plan: Plan) -> Mapping[int, list[TrialSpec]]:
    blocks: dict[int, list[TrialSpec]] = defaultdict(list)
    for spec in plan:
        blocks[spec.block].append(spec)
    return blocks


def _by_method(plan: Plan) -> Mapping[str, list[TrialSpec]]:
    methods: dict[str, list[TrialSpec]] = defaultdict(list)
    for spec in plan:
        methods[spec.method].append(spec)
    return methods


def _status(key: str, finished: Mapping[str, TrialResult], failures: Iterable[str], running: Iterable[str]) -> str:
    if key in finished:
        return finished[key].status
    return "running" if key in running else "failed" if key in failures else "left"


def _varies(specs: list[TrialSpec]) -> str:
    """The axes of a block and how many values each has."""
    own = hyperparameters(OBJECTIVES[specs[0].method])
    axes = {name: len({str(spec.point[name]) for spec in specs}) for name in specs[0].varied if name != "learning_rate"}
    return " × ".join(f"{own[name].symbol if name in own else name} {count}" for name, count in axes.items()) or "–"


def _values(specs: list[TrialSpec], name: str) -> str:
    values = sorted({spec.train[name] for spec in specs})
    return " ".join(f"{value:g}" for value in values) if len(values) <= 5 else f"{values[0]:g} … {values[-1]:g}"


def _point(spec: TrialSpec) -> str:
    return " ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in spec.point.items()
    )


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


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{int(seconds // 3600)}:{int(seconds // 60 % 60):02d}:{int(seconds % 60):02d}"
