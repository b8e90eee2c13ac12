"""What would run and what it costs, before it runs: posweep plan."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from posweep import capacity, memory
from posweep.console.base import by_block, duration, fate, point_of
from posweep.console.calls import calls
from posweep.cost import Cost, Finished, checkpoint_bytes, cost_of, free_bytes, read_probes, whole
from posweep.difference import since_last_launch
from posweep.errors import ConfigError, PreflightError
from posweep.folder import existing, folder_of, running_keys
from posweep.identity import Identity, identity_of, ownership_problems
from posweep.ledger import Ledger
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.plan import Plan, detectable_difference, largest_batch, make_plan
from posweep.records import TrialSpec
from posweep.search import outline, stand_ins
from posweep.settings import Configuration
from posweep.terminal import open_console, table_of

FEW = 6
"""Methods that a sentence may list."""
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def print_plan(configuration: Configuration) -> None:
    """Trials per block with what is finished, what changed since the last launch, what they can show and what they cost.

    Raises:
        ConfigError: the folder belongs to another sweep or to a newer posweep.
        PreflightError: a trial cannot fit into the memory it has.
    """
    plan, folder, console = make_plan(configuration), folder_of(configuration), open_console()
    if problems := ownership_problems(folder, plan.name):
        raise ConfigError(problems)
    identity, finished = identity_of(configuration), Ledger(folder).finished(plan)
    searched = stand_ins(configuration, plan)
    probes = read_probes(folder, configuration, identity)
    costs = cost_of(configuration, plan, finished, probes, searched)
    console.print(_table(plan, finished, costs))
    console.print(_total(configuration, plan, finished, len(searched), whole(costs)))
    batch = largest_batch(plan)
    console.print(f"memory a trial needs: {capacity.summary(configuration, batch, len(plan))}")
    if said := capacity.sharing(configuration, batch, len(plan), max((one.peak for one in probes.values()), default=0)):
        console.print(said)
    left = len(plan) - len(finished) + len(searched)
    remarks = (
        *_disk(configuration, left, whole(costs)), *calls(configuration, plan, finished),
        *_remarks(configuration, plan), *outline(configuration, plan), *_since(folder, plan, identity),
    )  # fmt: skip
    for remark in remarks:
        console.print(remark)
    if problems := capacity.problems(configuration, batch, len(plan)):
        raise PreflightError(problems)


def _table(plan: Plan, finished: Finished, costs: Mapping[int, Cost]) -> Table:
    """A row a block."""
    columns = ("block", "method", "prior", "varies", "learning rates", "trials", "finished", "time left")
    table = table_of(*columns, "GPU-hours", "disk", numbers=5)
    for block, specs in by_block(plan).items():
        title, cost, done = OBJECTIVES[specs[0].method].title, costs[block], sum(spec.key in finished for spec in specs)
        left = (duration(cost.seconds), _hours(cost.gpu_hours), _bytes(cost.disk))
        rates = _values(specs, "learning_rate")
        table.add_row(str(block), title, specs[0].prior, _varies(specs), rates, str(len(specs)), str(done), *left)
    return table


def print_lines(configuration: Configuration) -> None:
    """The plan as JSON lines and nothing else: what plan.jsonl would hold, signs beyond ASCII escaped for any encoding."""
    for spec in make_plan(configuration):
        print(json.dumps(spec.to_json(), sort_keys=True, separators=(",", ":")))


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


def _total(configuration: Configuration, plan: Plan, finished: Finished, searched: int, cost: Cost) -> str:
    """Trials, time and GPU-hours; the last two are unknown until trials of the same kind have finished or were probed."""
    left = len(plan) - len(finished)
    workers = capacity.trials_at_once(configuration, left + searched)
    more = f" and {searched} of the search" if searched else ""
    return (
        f"{len(plan)} trials, {len(finished)} finished, {left} left{more} · "
        f"time {duration(cost.seconds and cost.seconds / workers)} with {workers} at a time · "
        f"GPU-hours {_hours(cost.gpu_hours)}"
    )


def _disk(configuration: Configuration, left: int, cost: Cost) -> list[str]:
    """What the trials that are left will write, of what it is made, and whether there is room."""
    if not left:
        return []
    folder, keep = folder_of(configuration), configuration.train.keep
    checkpoints, at_once = checkpoint_bytes(configuration, left), capacity.trials_at_once(configuration, left)
    free = free_bytes(folder)
    known = [size for size in (cost.records, cost.policies, checkpoints) if size is not None]
    needed, more = sum(known), " or more" if len(known) < 3 else ""
    said = [
        f"disk: {_bytes(needed)}{more} (records {_bytes(cost.records)}, policies {_bytes(cost.policies)} with "
        f"train.keep={keep}, checkpoints {_bytes(checkpoints)} with {at_once} at a time); "
        f"{_bytes(free)} free in {existing(folder)}"
    ]
    if needed > free:
        fewer = "" if keep == "nothing" or not cost.policies else "set train.keep=nothing, or "
        said.append(f"That does not fit on the disk: {fewer}set output_dir to a folder with more room.")
    return said


def _since(folder: Path, plan: Plan, identity: Identity) -> list[str]:
    """What sets the plan apart from the one launched last."""
    try:
        difference = since_last_launch(folder, plan, identity)
    except ConfigError as error:
        return list(error.problems)
    return [str(difference), *map(str, difference.changes)] if difference else []


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


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:.1f}"


def _bytes(size: float | None) -> str:
    if size is None:
        return "unknown"
    unit, name = next(((unit, name) for unit, name in UNITS if size >= unit), UNITS[-1])
    return f"{size / unit:.1f} {name}" if size else "0"
