"""What a launch was asked with: recorded in its output folder, repeated by the commands that posweep prints, and read back
where a folder is named in place of a sweep.

The folder holds the composed configuration (`config.yaml`) and, beside it, the overrides as typed and the working folder
that relative paths in them start from (`launch.json`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posweep import __version__
from posweep.errors import ConfigError, without_password
from posweep.folder import CONFIG, LAUNCH, folder_of, read_json
from posweep.identity import ownership_problems
from posweep.ledger import write_atomically, write_text_atomically
from posweep.settings import Configuration
from posweep.trackers.address import address_problems, database, is_file, url_of

FILES = (".jsonl", ".json", ".parquet", ".gz")
"""How the name of a file ends, where a name may also be one on the hub."""


@dataclass(frozen=True)
class RecordedLaunch:
    """The last launch of an output folder.

    Attributes:
        typed: the folder, as the user names it.
        folder: the same, absolute.
        text: its config.yaml.
        overrides: what was typed; None where the folder was made before that was recorded.
        working_folder: where it was typed; None where that was not recorded.
    """

    typed: str
    folder: Path
    text: str
    overrides: tuple[str, ...] | None
    working_folder: Path | None

    @property
    def file(self) -> str:
        """Its config.yaml, for sentences."""
        return str(Path(self.typed) / CONFIG)

    def base(self, output_dir: str) -> Path:
        """The folder that relative paths in the configuration start from.

        It is the launch's working folder. Where that is gone or was not recorded, it is the folder above `output_dir`, if
        the folder still lies in one of that name: a project may have been moved as a whole.
        """
        if self.working_folder and self.working_folder.is_dir():
            return self.working_folder
        parts = Path(output_dir).parts
        if not Path(output_dir).is_absolute() and self.folder.parent.parts[-len(parts) :] == parts:
            return Path(*self.folder.parent.parts[: -len(parts)])
        return self.working_folder or Path.cwd()


def command(configuration: Configuration, verb: str = "launch", *more: str) -> str:
    """The command for a verb on this sweep, quoted for a shell: it names the output folder where that records this very
    configuration, and the arguments as typed where it does not (yet)."""
    folder, asked = folder_of(configuration), configuration.invocation
    arguments = (shown(folder),) if asked.composed and _recorded_text(folder) == asked.composed else asked.arguments
    return command_of(verb, *(arguments or (f"sweep={configuration.sweep.name}",)), *more)


def command_of(verb: str, *arguments: str) -> str:
    """A verb and its arguments, quoted for a shell."""
    return without_password(shlex.join(["posweep", *([] if verb == "launch" else [verb]), *arguments]))


def shown(folder: Path) -> str:
    """A folder as an argument that is taken for one: relative where it lies in the working folder, else absolute."""
    if not folder.is_relative_to(Path.cwd()):
        return str(folder)
    path = str(folder.relative_to(Path.cwd()))
    return path if re.match(r"[\w.-]+/", path) and "=" not in path and path[0] != "-" else f"./{path}"


def record_invocation(folder: Path, configuration: Configuration) -> None:
    """Write down what this launch was asked with."""
    asked = configuration.invocation
    content = {"version": __version__, "working_folder": asked.working_folder, "overrides": list(asked.overrides)}
    write_text_atomically(folder / CONFIG, asked.composed)
    write_atomically(folder / LAUNCH, content, indent=1)


def names_folder(argument: str) -> bool:
    """Whether an argument names an output folder: it begins like a path, or has no `=` and is a path or a folder here."""
    if argument.startswith(("/", "./", "../", "~/")):
        return True
    if not argument or "=" in argument or argument.startswith(("~", "+", "-")):
        return False
    return "/" in argument or Path(argument).is_dir()


def read_recorded(typed: str) -> RecordedLaunch:
    """The last launch of a folder.

    Raises:
        ConfigError: it is no folder of a sweep, or what it recorded is damaged.
    """
    folder = Path(os.path.normpath(Path(typed).expanduser().absolute()))
    if not folder.is_dir():
        raise ConfigError(f"{typed}: is no folder; name the output folder of a sweep, or a sweep with sweep=NAME.")
    file = folder / CONFIG
    if not file.is_file():
        inside = sorted(shown(config.parent) for config in folder.glob(f"*/{CONFIG}"))
        there = f"; there are {', '.join(inside)}" if inside else ""
        raise ConfigError(f"{typed}: holds no sweep ({CONFIG} is not there); name the output folder of one{there}.")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(str(Path(typed) / CONFIG), str(error)) from None
    overrides, working_folder = None, None
    if (folder / LAUNCH).is_file():
        way_out = "delete it to go on without what was typed at the launch"
        overrides, working_folder = read_json(folder / LAUNCH, _launch, way_out)
    return RecordedLaunch(typed, folder, text, overrides, working_folder)


def damaged(file: str, reason: str) -> ConfigError:
    """A configuration that cannot be read."""
    reason = " ".join(reason.split())
    return ConfigError(
        f"{file}: cannot be read ({reason}); launch the sweep with its own arguments, which writes it anew."
    )


def named_folder(recorded: RecordedLaunch, name: str) -> RecordedLaunch:
    """The same, under the name of its sweep: a link is followed.

    Raises:
        ConfigError: the folder bears another name, or a newer posweep wrote it.
    """
    folder = recorded.folder
    if folder.name != name:
        folder = folder.resolve()
    if folder.name != name:
        raise ConfigError(
            f"{recorded.typed}: holds sweep {name}, and a sweep's folder has its name; rename it to {folder.parent / name}."
        )
    if problems := ownership_problems(folder, name):
        raise ConfigError(problems)
    return RecordedLaunch(recorded.typed, folder, recorded.text, recorded.overrides, recorded.working_folder)


def relative_paths(composed: Mapping[str, Any], base: Path) -> dict[str, str]:
    """Each setting that holds a relative path, with the absolute one that it means from `base`."""
    values = {"output_dir": composed.get("output_dir"), "data.path": _section(composed, "data").get("path")}
    values |= {"tracking.uri": _section(composed, "tracking").get("uri")}
    named = {place: _section(composed, place) for place in ("model", "data")}
    named |= {f"judge.{name}": judge for name, judge in _section(composed, "judge").items()}
    sources = _section(_section(composed, "evaluation"), "sources")
    named |= {f"evaluation.sources.{name}": source for name, source in sources.items()}
    names = {f"{place}.name": one.get("name") for place, one in named.items() if isinstance(one, Mapping)}
    values |= {place: name for place, name in names.items() if isinstance(name, str) and _is_file(name, base)}
    return {
        place: absolute
        for place, value in values.items()
        if isinstance(value, str)
        and value
        and (absolute := _absolute(value, base)) != value
        and (not value.startswith("~") or place == "output_dir")  # what begins with ~ is absolute, but for folder_of
    }


def _absolute(value: str, base: Path) -> str:
    if is_file(value) and not address_problems(value):
        return value if database(value).is_absolute() else url_of(Path(os.path.normpath(base / database(value))))
    if re.match(r"\w+://", value):
        return value
    return os.path.normpath(base / value)


def _is_file(name: str, base: Path) -> bool:
    """Whether the name of a model or a data set means a file or folder here, seen from `base`."""
    return bool(name) and (name.startswith(("./", "../")) or name.endswith(FILES) or (base / name).exists())


def _section(composed: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = composed.get(name)
    return section if isinstance(section, Mapping) else {}


def _launch(content: Any) -> tuple[tuple[str, ...], Path]:
    """The overrides and the working folder of launch.json."""
    overrides: Sequence[Any] = content["overrides"]
    if not isinstance(overrides, list) or not all(isinstance(override, str) for override in overrides):
        raise TypeError("overrides: must be a list of texts")
    return tuple(overrides), Path(content["working_folder"])


def _recorded_text(folder: Path) -> str:
    try:
        return (folder / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
