"""Sources → the data of a sweep: read, collapsed, checked for prompts that stand in two places, drawn and split."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from posweep.data.base import Preferences, split_by_prompt
from posweep.data.formats import Dropped, Labelled, Layout, Malformed, couple, layout, setting
from posweep.data.rows import Row
from posweep.errors import ConfigError, DataError
from posweep.records import Example, PreferencePair, Prompt, prompt_text
from posweep.settings import Columns, HubData, LocalData

READING = 1
"""Raised when the same rows would make other pairs; part of what determines them."""
SHOWN = 5
"""Malformed rows named per source; more are counted."""
COLUMNS_SHOWN = 8
"""Columns that are not used named per sentence; more are counted."""
LIKELY = {"system": ("system", "system_prompt"), "input": ("input",)}
"""What data sets call the columns that are read only where they are named."""


@dataclass(frozen=True)
class Source:
    """One set of rows: the settings that say where it is, its name for people, its columns, and how it is opened."""

    place: str
    name: str
    columns: Columns
    open: Callable[[], Iterable[Row]]
    seed: int = 0


@dataclass
class Found:
    """What one source came to: pairs without exact duplicates, what became of its rows, and what is wrong with it.

    `unused`: its columns that nothing was read from.
    """

    source: Source
    pairs: list[PreferencePair] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    unused: tuple[str, ...] = ()


def assemble(settings: LocalData | HubData, train: Source, sets: Mapping[str, Source]) -> Preferences:
    """Pairs to train on, one pair per prompt in each evaluation set, and the judge's share of the prompts.

    Raises:
        DataError: everything that is wrong with any of the sources, and prompts that stand in two of them.
    """
    found, held_out = read(train), {name: read(source) for name, source in sets.items()}
    evaluation = {name: one_per_prompt(one) for name, one in held_out.items()}
    problems = [*found.problems, *_problems(held_out)]
    if settings.shared_prompts == "drop":
        drop_shared(found, evaluation)
    elif settings.shared_prompts == "error":
        problems += shared_problems(found.pairs, evaluation, WAYS_OUT)
    problems += _training_problems(settings, found, train.name)
    if problems:
        raise DataError(dict.fromkeys(problems))
    return _preferences(settings, found, held_out, evaluation)


def _problems(held_out: Mapping[str, Found]) -> list[str]:
    return [problem for one in held_out.values() for problem in one.problems]


def _training_problems(settings: LocalData | HubData, found: Found, name: str) -> list[str]:
    """Nothing left to train on, or judges that are to train on what is no pair."""
    problems = []
    if not found.problems and not found.pairs:
        problems.append(f"{name}: leaves no pairs to train on; all its prompts stand in evaluation sets too.")
    if settings.judge_share and any(pair.rejected_prompt is not None for pair in found.pairs):
        problems.append("data.judge_share: must be 0 where the data label responses one by one: judges train on pairs.")
    return problems


def _preferences(
    settings: LocalData | HubData, found: Found, held_out: Mapping[str, Found],
    evaluation: Mapping[str, tuple[PreferencePair, ...]],
) -> Preferences:  # fmt: skip
    pairs = drawn(found.pairs, settings.pairs, settings.seed)
    train, judge = split_by_prompt(pairs, settings.judge_share, settings.seed)
    more = {"not drawn": len(found.pairs) - len(pairs), "kept for judges": len(judge)}
    found.counts.update({what: count for what, count in more.items() if count})
    found.counts["pairs"] = len(train)
    return Preferences(
        train=train,
        sft=tuple(dict.fromkeys(Example(pair.prompt, pair.chosen) for pair in train)),
        judge=judge,
        evaluation=evaluation,
        counts=_named({"train": found, **held_out}),
        unused=_unused({"train": found, **held_out}),
        notes=unused_notes({"train": found, **held_out}),
    )


def beside(world: Preferences, sets: Mapping[str, Source]) -> Preferences:
    """The same data with more evaluation sets.

    Raises:
        DataError: as for `assemble`.
    """
    held_out = {name: read(source) for name, source in sets.items()}
    evaluation = {name: one_per_prompt(one) for name, one in held_out.items()}
    problems = _problems(held_out)
    problems += shared_problems([*world.train, *world.judge], evaluation, "remove them from it.")
    if problems:
        raise DataError(dict.fromkeys(problems))
    counts = {**world.counts, **_named(held_out)}
    both = {**world.evaluation, **evaluation}
    return replace(world, evaluation=both, counts=counts, unused=_unused(held_out), notes=unused_notes(held_out))


def _named(found: Mapping[str, Found]) -> dict[str, int]:
    return {f"{name}/{what}": count for name, one in found.items() for what, count in one.counts.items()}


def _unused(found: Mapping[str, Found]) -> dict[str, tuple[str, ...]]:
    return {name: one.unused for name, one in found.items() if one.unused}


# --- columns that are not used


def unused_notes(found: Mapping[str, Found]) -> tuple[str, ...]:
    """A sentence for all sets whose settings stand in one place and that have the same unused columns."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, one in found.items():
        if one.unused:
            alike.setdefault((one.source.place, one.unused), []).append(name)
    settings = {one.source.place: one.source.columns for one in found.values()}
    return tuple(_unused_note(place, columns, names, settings[place]) for (place, columns), names in alike.items())


def _unused_note(place: str, columns: tuple[str, ...], sets: Sequence[str], settings: Columns) -> str:
    shown = ", ".join(columns[:COLUMNS_SHOWN])
    more = f" and {len(columns) - COLUMNS_SHOWN} more" if len(columns) > COLUMNS_SHOWN else ""
    ways = {
        "system": "reads it as a system turn before the prompt",
        "input": "reads it behind the prompt, as Alpaca does",
    }
    hints = [
        f"; {setting(place, ours, settings)}={name} {ways[ours]}"
        for ours, names in LIKELY.items()
        if ours not in settings
        for name in names
        if name in columns
    ]
    are = "columns are" if len(columns) > 1 else "column is"
    return f"{place}: {len(columns)} {are} not used in {', '.join(sets)}: {shown}{more}{''.join(hints)}."


# --- one source


def read(source: Source) -> Found:
    """The pairs of a source; malformed rows become sentences, of which a few are shown and the rest counted."""
    found = Found(source)
    try:
        rows = list(source.open())
        if not rows:
            raise DataError(f"{source.name}: holds no rows; it needs one per pair.")
        read_as = _layout(source, rows)
        columns = dict.fromkeys(column for row in rows for column in row.values)
        found.unused = read_as.unused(columns) if read_as else ()
        _read_rows(found, rows, read_as, source)
    except ConfigError as error:
        found.problems += error.problems
    return found


def _layout(source: Source, rows: Sequence[Row]) -> Layout | None:
    """The format of the first row that has one: lines of a file may differ. None where no row could be read."""
    problem: DataError | None = None
    for columns in dict.fromkeys(tuple(row.values) for row in rows if not row.wrong):
        try:
            return layout(columns, source.columns, source.place, source.name)
        except DataError as error:
            problem = problem or error
    if problem:
        raise problem
    return None


def _read_rows(found: Found, rows: Sequence[Row], read_as: Layout | None, source: Source) -> None:
    items: Counter[PreferencePair | Labelled] = Counter()
    malformed: list[str] = []
    for row in rows:
        try:
            items[_item(row, read_as)] += 1
        except Dropped as reason:
            found.counts[f"dropped: {reason}"] += 1
        except Malformed as wrong:
            malformed.append(f"{row.place}: {wrong}")
    found.counts.update(rows=len(rows))
    found.problems += malformed[:SHOWN]
    if len(malformed) > SHOWN:
        found.problems.append(f"{source.name}: {len(malformed) - SHOWN} more malformed rows.")
    if malformed and read_as and "prompt" not in read_as.names and found.unused:
        found.problems.append(
            f"{source.place}.columns.prompt: if a column of {source.name} holds the prompt, name it: "
            f"{setting(source.place, 'prompt', source.columns)}=COLUMN, one of {', '.join(found.unused)}."
        )
    _collect(found, items, source, bool(malformed))


def _item(row: Row, read_as: Layout | None) -> PreferencePair | Labelled:
    if row.wrong or read_as is None:
        raise Malformed(row.wrong)
    return read_as.read(row.values)


def _collect(found: Found, items: Counter[PreferencePair | Labelled], source: Source, malformed: bool) -> None:
    """The pairs among the items and those made of labels; duplicates and what is left out are counted."""
    if duplicates := items.total() - len(items):
        found.counts["duplicates"] = duplicates
    made, left = couple((one for one in items if isinstance(one, Labelled)), source.seed)
    found.pairs = [*(one for one in items if isinstance(one, PreferencePair)), *made]
    found.counts.update(left)
    found.counts["pairs"] = len(found.pairs)
    if not found.pairs and not malformed:
        reasons = ", ".join(f"{what} ({n})" for what, n in found.counts.items() if what not in ("rows", "pairs"))
        if found.unused:
            reasons += f"; not used: {', '.join(found.unused)} ({source.place}.columns says which column holds what)"
        found.problems.append(f"{source.name}: none of its {found.counts['rows']} rows makes a pair: {reasons}.")


def one_per_prompt(found: Found) -> tuple[PreferencePair, ...]:
    """The first pair of each prompt; the others are counted."""
    first: dict[Prompt, PreferencePair] = {}
    for pair in found.pairs:
        first.setdefault(pair.prompt, pair)
    if further := len(found.pairs) - len(first):
        found.counts["further pairs of a prompt"] = further
        found.counts["pairs"] = len(first)
    return tuple(first.values())


# --- prompts in two places

WAYS_OUT = "set data.shared_prompts=drop to train without them, or data.shared_prompts=allow to keep them."


def shared_problems(
    train: Iterable[PreferencePair], evaluation: Mapping[str, Sequence[PreferencePair]], ways_out: str
) -> list[str]:
    """A prompt that is trained on cannot measure generalisation: one sentence per set that has some."""
    trained = set(itertools.chain(*map(_prompts, train)))
    return [
        f"evaluation set {name}: {len(shared)} of its {len(pairs)} prompts also stand in the training data, such as "
        f"{prompt_text(shared[0].prompt)[-60:]!r}; {ways_out}"
        for name, pairs in evaluation.items()
        if (shared := [pair for pair in pairs if not trained.isdisjoint(_prompts(pair))])
    ]


def drop_shared(found: Found, evaluation: Mapping[str, Sequence[PreferencePair]]) -> None:
    """Take the pairs out of training whose prompts are evaluated on."""
    held_out = set(itertools.chain(*map(_prompts, itertools.chain(*evaluation.values()))))
    kept = [pair for pair in found.pairs if held_out.isdisjoint(_prompts(pair))]
    if dropped := len(found.pairs) - len(kept):
        found.counts["dropped: prompt in an evaluation set"] = dropped
        found.pairs = kept


def _prompts(pair: PreferencePair) -> Iterator[str]:
    """What the prompts of a pair say, without the spaces around it that chat templates drop."""
    yield prompt_text(pair.prompt).strip()
    if pair.rejected_prompt is not None:
        yield prompt_text(pair.rejected_prompt).strip()


# --- some of many


def drawn(pairs: Sequence[PreferencePair], number: int | None, seed: int) -> list[PreferencePair]:
    """`number` pairs in their order: all of a prompt, prompts drawn by `seed`, and of the last one as many as are wanted."""
    if number is None or number >= len(pairs):
        return list(pairs)
    prompts = list(dict.fromkeys(pair.prompt for pair in pairs))
    order = np.random.default_rng([seed, 0xD4A37]).permutation(len(prompts))
    turn = {prompts[i]: place for place, i in enumerate(order)}
    chosen = sorted(range(len(pairs)), key=lambda i: (turn[pairs[i].prompt], i))[:number]
    return [pairs[i] for i in sorted(chosen)]
