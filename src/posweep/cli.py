"""The command line: a verb, then Hydra overrides. `posweep sweep=demo` launches; the other verbs look, repeat or report."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from posweep.errors import ConfigError, PosweepError, without_password
from posweep.proxies import bypass_loopback
from posweep.streams import any_reader, undecodable

if TYPE_CHECKING:
    from posweep.settings import Configuration

# Telemetry is off by name, before any of these is imported.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="true",
    HF_DATASETS_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false",
)  # fmt: skip

HYDRA_FLAGS = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "--version", "--shell-completion", "-sc")


def main() -> None:
    """The entry point: one sentence and an exit code for a user's mistake, a traceback only for ours."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)  # a scheduler's SIGTERM is a user's Ctrl-C, from the first moment on
    with any_reader():
        sys.exit(_answered())


def _answered() -> int:
    """Do what the arguments say, and say what went wrong; the exit code."""
    try:
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        again = without_password(shlex.join(["posweep", *sys.argv[1:]]))
        print(f"\nInterrupted. Everything finished is kept; continue with: {again}", file=sys.stderr)
        return 130
    except PosweepError as error:
        sys.stdout.flush()  # what went wrong comes last, also where both go into one file
        for line in str(error).splitlines():
            print(line, file=sys.stderr)
        return error.exit_code


def interrupt(*_: object) -> None:
    """What SIGTERM does, as Ctrl-C does it."""
    raise KeyboardInterrupt


def run(argv: Sequence[str]) -> int:
    """Take the verb off the arguments and do it."""
    _strip_verb_from_completion()
    try:
        working_folder = str(Path.cwd())
    except OSError as error:
        raise ConfigError(f"The working folder is not there ({error.strerror}); change to one that is.") from None
    if problems := undecodable([*argv, working_folder]):
        raise ConfigError(problems)
    bypass_loopback()  # before any client or worker is made
    verb, rest = (argv[0], argv[1:]) if argv and argv[0] in VERBS else ("launch", list(argv))
    if list(argv) == ["--version"]:
        print(f"posweep {version('posweep')}")
        return 0
    rest = ["--help"] if list(argv) == ["help"] else rest
    if any(argument.split("=")[0] in HYDRA_FLAGS for argument in rest):
        from posweep.config import show

        show(rest)
        return 0
    if "-m" in rest or "--multirun" in rest:
        raise ConfigError("-m: posweep has no multirun; a sweep's blocks say which trials to run (sweeps/*.yaml).")
    if problems := _bare_words(verb, rest):
        raise ConfigError(problems)
    VERBS[verb](list(rest))
    return 0


def _bare_words(verb: str, arguments: Sequence[str]) -> list[str]:
    """One sentence per argument that is neither NAME=VALUE nor a folder: what it may have been meant for, as it is typed."""
    problems, words = [], [a for a in arguments if "=" not in a and not a.startswith("~") and not Path(a).is_dir()]
    if not words:
        return []
    from posweep.checks import nearest
    from posweep.config import sweeps

    command = f"posweep {verb} " if verb != "launch" else "posweep "
    for word in words:
        if word.startswith("-"):
            problems.append(f"{word}: no such flag; posweep --help shows what there is.")
        elif word in sweeps():
            problems.append(f"{word}: is a sweep; type: {command}sweep={word}")
        elif word.endswith(TABLES):
            problems.append(f"{word}: is a table; type: posweep report {shlex.quote(f'table={word}')}")
        elif verb == "launch" and word == arguments[0] and word.isidentifier():
            meant = nearest(word, VERBS) or nearest(f"sweep={word}", [f"sweep={name}" for name in sweeps()])
            problems.append(f"{word}: no such verb; there are {', '.join(VERBS)} (none launches the sweep).{meant}")
        elif "/" in word:
            problems.append(f"{word}: is no folder; name the output folder of a sweep, or a sweep with sweep=NAME.")
        else:
            problems.append(f"{word}: has no value; a setting is NAME=VALUE, as in sweep=demo.")
    return problems


def launch(overrides: list[str]) -> None:
    """posweep sweep=NAME: run what is not finished and write the report; retry=failed runs just what has failed."""
    rest, own = _own(overrides, "retry")
    if own.get("retry", "failed") != "failed":
        raise ConfigError(f"retry: must be failed, got {own['retry']!r}; without it, everything that is left runs.")
    _launch(rest, train=True, failed_only="retry" in own)


def judge(overrides: list[str]) -> None:
    """posweep judge sweep=NAME judge=[…]: score stored responses with these judges; nothing is trained."""
    _launch(overrides, train=False)


def _launch(overrides: list[str], train: bool, failed_only: bool = False) -> None:
    from posweep import launch as stage
    from posweep.folder import folder_of

    configuration = _configured(overrides)
    failed: PosweepError | None = None
    try:
        stage.launch(configuration, train=train, failed_only=failed_only)
    except PosweepError as error:
        if error.exit_code != 3:
            raise
        failed = error
    if (report := folder_of(configuration) / "report").is_dir():  # there is none before anything was measured
        _summary(report)
    if failed:
        raise failed


def plan(overrides: list[str]) -> None:
    """posweep plan sweep=NAME: what would run; keys=all lists every trial, keys=jsonl as JSON lines; plan.probe=true runs a
    short trial per method first, to know the time."""
    from posweep import console

    rest, own = _own(overrides, "keys", "plan.probe")
    problems = [
        f"{name}: must be {' or '.join(values)}, got {own[name]!r}."
        for name, values in {"keys": ("all", "jsonl"), "plan.probe": ("true", "false")}.items()
        if name in own and own[name] not in values
    ]
    if problems:
        raise ConfigError(problems)
    configuration = _configured(rest)
    if own.get("plan.probe") == "true":
        console.print_probe(configuration)
    show = {"all": console.print_keys, "jsonl": console.print_lines}.get(own.get("keys", ""), console.print_plan)
    show(configuration)


def show_status(overrides: list[str]) -> None:
    """posweep status sweep=NAME: what has become of it."""
    from posweep import console

    console.print_status(_configured(overrides))


def trial(overrides: list[str]) -> None:
    """posweep trial sweep=NAME key=KEY: one trial here and now."""
    from posweep import console

    rest, own = _own(overrides, "key")
    console.print_trial(_configured(rest), _key(own, rest))


def export(overrides: list[str]) -> None:
    """posweep export sweep=NAME key=KEY: the trained policy as a Hugging Face folder; to=FOLDER, merged=false."""
    from posweep import console

    rest, own = _own(overrides, "key", "to", "merged")
    if own.get("merged", "true") not in ("true", "false"):
        raise ConfigError(f"merged: must be true (one model) or false (adapters alone), got {own['merged']!r}.")
    console.print_export(_configured(rest), _key(own, rest), own.get("to", ""), own.get("merged", "true") == "true")


def report(overrides: list[str]) -> None:
    """posweep report sweep=NAME: figures, tables and the page from what is recorded; sweep=[A,B] compares, table=FILE
    reads one's own table."""
    if any(override.startswith("table=") for override in overrides):
        _report_table(overrides)
        return
    from posweep.config import SEVERAL, configure, configure_each
    from posweep.invocation import names_folder
    from posweep.publish import publish, publish_comparison

    listed = any(SEVERAL.match(override) for override in overrides) or sum(map(names_folder, overrides)) > 1
    sweeps = configure_each(overrides) if listed else [configure(overrides)]
    if len(sweeps) > 1:
        from posweep.console import print_comparison

        print_comparison(publish_comparison(sweeps).parent)
    else:
        _summary(publish(sweeps[0]).parent)


def _report_table(overrides: list[str]) -> None:
    """Without Hydra and MLflow: a table has neither configuration nor tracker."""
    from posweep.console import print_facts, print_summary
    from posweep.publish import publish_table

    rest, own = _own(overrides, *TABLE)
    if rest:
        raise ConfigError(f"{rest[0]}: a report of a table takes {', '.join(f'{name}=…' for name in TABLE)} only.")
    if not own["table"]:
        raise ConfigError("table: none named; add table=FILE, which ends in .csv, .tsv, .jsonl, .json or .parquet.")
    metrics, settings = (_listed(own[name]) if name in own else None for name in ("metric", "hyperparameters"))
    record, page = publish_table(own["table"], metrics, own.get("name", ""), own.get("to", ""), settings)
    print_facts(record.facts)
    print_summary(page.parent, "the largest, which flatters")


def sync(overrides: list[str]) -> None:
    """posweep sync sweep=NAME: send what the output folder holds and MLflow lacks."""
    from posweep import sync as stage
    from posweep.config import configure

    stage.sync(configure(overrides))


def ui(overrides: list[str]) -> None:
    """posweep ui: the MLflow UI on this store, on 127.0.0.1."""
    from posweep.config import tracking
    from posweep.trackers.ui import serve

    rest, own = _own(overrides, "port")
    port = own.get("port", "5000")
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"port: must be a whole number from 1 to 65535, got {port!r}.")
    serve(tracking(rest).uri, int(port))


TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""How the files that a report reads as tables end."""

VERBS: dict[str, Callable[[list[str]], None]] = {
    "launch": launch,
    "plan": plan,
    "status": show_status,
    "trial": trial,
    "judge": judge,
    "report": report,
    "export": export,
    "sync": sync,
    "ui": ui,
}


TABLE = ("table", "metric", "name", "to", "hyperparameters")
"""What the report of a table takes."""


def _listed(text: str) -> list[str]:
    """`a` or `[a,b]` as a list."""
    inside = text.removeprefix("[").removesuffix("]") if text.startswith("[") and text.endswith("]") else text
    return [name.strip().strip("'\"") for name in inside.split(",") if name.strip()]


def _configured(overrides: Sequence[str]) -> Configuration:
    """The configuration, and a line on stderr for each file that stands in for one of ours."""
    from posweep.config import configure, shadowing

    configuration = configure(overrides)
    for line in shadowing():
        print(line, file=sys.stderr)
    return configuration


def _own(overrides: Sequence[str], *names: str) -> tuple[list[str], dict[str, str]]:
    """A verb's own arguments apart from Hydra's overrides."""
    own = {o.partition("=")[0]: o.partition("=")[2] for o in overrides if o.partition("=")[0] in names}
    return [o for o in overrides if o.partition("=")[0] not in names], own


def _key(own: dict[str, str], rest: list[str]) -> str:
    if not own.get("key"):
        from posweep.invocation import command_of

        listing = command_of("plan", *(rest or ["sweep=NAME"]), "keys=all")
        raise ConfigError(f"key: name one trial with key=KEY ({listing} lists them).")
    return own["key"]


def _summary(folder: Path) -> None:
    from posweep.console import print_summary

    print_summary(folder)


def _strip_verb_from_completion() -> None:
    """The shell completes `posweep plan sweep=…` as Hydra knows it: without the verb."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split(maxsplit=2)
    if len(words) > 1 and words[1] in VERBS and (len(words) > 2 or line.endswith(" ")):
        stripped = f"{words[0]} {words[2] if len(words) > 2 else ''}"
        point = int(os.environ.get("COMP_POINT", len(line))) - (len(line) - len(stripped))
        os.environ.update(COMP_LINE=stripped, COMP_POINT=str(point))
