"""The door to Hydra: compose `conf/` and `sweeps/`, turn the result into plain frozen data, report every mistake at once.

Nobody above or below this module sees a `DictConfig`. `sweeps/*.yaml` is the group `sweep`; the working folder's `conf/`
and `sweeps/` come first, then the package's own. The primary configuration (`config.yaml`) and Hydra's own section are
always the package's: a working folder may be another Hydra project's.
"""

from __future__ import annotations

import codecs
import contextlib
import dataclasses
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # isort: skip
from hydra._internal.core_plugins.file_config_source import FileConfigSource  # isort: skip
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posweep.blocks import unknown_hyperparameter
from posweep.checks import checked, nearest
from posweep.errors import ConfigError
from posweep.fields import build
from posweep.invocation import RecordedLaunch, damaged, named_folder, names_folder, read_recorded, relative_paths
from posweep.objectives import OBJECTIVES
from posweep.settings import Configuration, Invocation, TrackingSettings

EVERY_METHOD = "method/all"
"""The choice that stands for every method there is; no file, so that a new method need not be entered anywhere."""

FREE = ("data.evaluation", "evaluation.sources", "executor.method_resources")
"""Mappings whose names are the user's, as are those of columns."""
WORKING_FOLDER = "working folder"
"""The provider of the configurations that a user brings."""

_shadowing: dict[str, None] = {}
"""Files of the working folder that the last composition took in place of the package's, in order."""

SEVERAL = re.compile(r"sweep=\s*\[")
"""An override that names a list of sweeps."""


class PosweepSource(FileConfigSource):  # type: ignore[misc]
    """Configuration files of one folder: its `conf/`, with its `sweeps/` as the group `sweep`."""

    @staticmethod
    def scheme() -> str:
        """How a search path names this kind of source."""
        return "posweep"

    def load_config(self, config_path: str) -> ConfigResult:
        """One YAML file, or the list of all methods."""
        if config_path.removesuffix(".yaml") == EVERY_METHOD:
            everything = OmegaConf.create({"defaults": list(OBJECTIVES)})
            return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", everything, {"package": None})
        relative = f"{_within(config_path).removesuffix('.yaml')}.yaml"
        file = f"{self.path}/{relative}"
        try:
            found = super().load_config(_within(config_path))
        except UnicodeDecodeError as error:
            raise ConfigError(f"{file}: is no UTF-8 text ({error.reason} at byte {error.start}).") from None
        if Path(file).read_bytes().startswith(codecs.BOM_UTF8):  # Hydra would not see the line that names the package
            raise ConfigError(f"{file}: begins with a byte-order mark; save it as UTF-8 without one.")
        if not OmegaConf.is_dict(found.config):
            raise ConfigError(f"{file}: must be a mapping of settings, not a list.")
        if config_path.startswith("sweep/") and found.header.get("package") != "_global_":
            raise ConfigError(
                f"{relative}: its first line must be # @package _global_, or it is no sweep of posweep's."
            )
        if self._shadows(relative):
            _shadowing[relative] = None
        return found

    def _shadows(self, relative: str) -> bool:
        """Whether this file stands in for one of the package's that says something else."""
        package = search_folders()["posweep"] / relative
        return (
            self.provider == WORKING_FOLDER
            and package.is_file()
            and package.read_bytes() != Path(self.path, relative).read_bytes()
        )

    def _is_hidden(self, config_path: str) -> bool:
        """Whether this is a file that only the package brings: the primary configuration, or one of Hydra's own."""
        if self.provider != WORKING_FOLDER:
            return False
        head, _, rest = config_path.removesuffix(".yaml").partition("/")
        return head == "hydra" or (not rest and Path(self.path, "conf", f"{head}.yaml").is_file())

    def available(self) -> bool:
        """Whether the folder holds configurations at all."""
        return self.is_group("") or self.is_group("sweep")

    def is_group(self, config_path: str) -> bool:
        """Whether this is a folder of choices."""
        return config_path.partition("/")[0] != "hydra" and bool(super().is_group(_within(config_path)))

    def is_config(self, config_path: str) -> bool:
        """Whether this is a file, or stands for all files of its group."""
        if self._is_hidden(config_path):
            return False
        every = config_path.removesuffix(".yaml") == EVERY_METHOD and self.is_group("method")
        return every or bool(super().is_config(_within(config_path)))

    def list(self, config_path: str, results_filter: Any) -> Any:
        """The choices of a group, or the groups themselves."""
        folder = Path(self.path) / _within(config_path)
        try:
            names = {file.name for file in folder.iterdir()}
        except OSError:  # no folder, or none that can be read
            names = set()
        if config_path == "sweep":
            names = {name for name in names if _is_sweep(folder / name)}
        names = {name for name in names if not self._is_hidden(f"{config_path}/{name}".lstrip("/"))}
        names |= {"": {"sweep"}, "method": {"all.yaml"}}.get(config_path, set())
        found: Any = []
        for name in sorted(names):
            self._list_add_result(found, f"{config_path}/{name}".lstrip("/"), name, results_filter)
        return sorted(set(found))


class PosweepSearchPath(SearchPathPlugin):  # type: ignore[misc]
    """The working folder first, then the package's own configurations."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append both folders."""
        for provider, folder in search_folders().items():
            search_path.append(provider=provider, path=f"posweep://{folder}")


def search_folders() -> dict[str, Path]:
    """Where configurations are looked for, in order."""
    package = Path(__file__).parent
    own = package if (package / "conf").is_dir() else package.parents[1]
    folders = {WORKING_FOLDER: Path.cwd(), "posweep": own}
    return {"posweep": own} if Path.cwd() == own else folders


def _within(config_path: str) -> str:
    """Where a group lives in a folder: `sweep/x` in `sweeps/x`, everything else under `conf/`."""
    head, _, rest = config_path.partition("/")
    return f"sweeps/{rest}" if head == "sweep" else f"conf/{config_path}"


Plugins.instance().register(PosweepSource)
Plugins.instance().register(PosweepSearchPath)


def sweeps() -> list[str]:
    """The sweeps that can be named, from all search folders."""
    files = (file for folder in search_folders().values() for file in (folder / "sweeps").glob("*.yaml"))
    return sorted({file.stem for file in files if _is_sweep(file)})


def _is_sweep(file: Path) -> bool:
    """Whether a file says that it is one; other tools keep theirs in a folder of the same name."""
    try:
        return bool(re.search(r"^# *@package +_global_", file.read_text(encoding="utf-8", errors="replace"), re.M))
    except OSError:
        return False


def shadowing() -> list[str]:
    """A sentence for each file of the working folder that the last composition took in place of the package's."""
    return [f"{file} of the working folder is used in place of posweep's own." for file in _shadowing]


def configure(overrides: Sequence[str]) -> Configuration:
    """Compose the configuration that the overrides ask for and check all of it.

    Args:
        overrides: they name a sweep (`sweep=NAME`), or an output folder whose recorded configuration is taken.

    Raises:
        ConfigError: Hydra could not compose it (one mistake), or the result holds mistakes (all of them).
    """
    if lists := [o for o in overrides if SEVERAL.match(o)]:
        raise ConfigError(f"{lists[0]}: takes one sweep, one of {', '.join(sweeps())}.")
    if any(map(names_folder, overrides)):
        return _configure_folder(overrides)
    composed, choices = _compose(overrides)
    if not choices.get("sweep"):
        raise ConfigError(f"sweep: none named; add sweep=NAME, one of {', '.join(sweeps())}.")
    problems: list[str] = []
    configuration = checked(composed, f"sweeps/{choices['sweep']}.yaml", problems)
    if problems:
        raise ConfigError([*_with_what_to_type(problems, overrides), *shadowing()])
    text = str(OmegaConf.to_yaml(OmegaConf.create(composed)))
    asked = Invocation(tuple(overrides), tuple(overrides), str(Path.cwd()), text)
    return dataclasses.replace(configuration, invocation=asked)


def configure_each(overrides: Sequence[str]) -> list[Configuration]:
    """One configuration per sweep of `sweep=[a,b]`, or per output folder, each by itself with the remaining overrides.

    Raises:
        ConfigError: every mistake of every sweep, each once; or none or two of one name are listed.
    """
    listed = next((o for o in overrides if SEVERAL.match(o)), "")
    names = [name.strip().strip("'\"") for name in listed.partition("[")[2].rstrip("] ").split(",") if name.strip()]
    folders = [o for o in overrides if names_folder(o)]
    rest = [o for o in overrides if not SEVERAL.match(o) and not names_folder(o)]
    if listed and folders:
        raise ConfigError(f"{listed}: names sweeps, and {folders[0]} a folder; name all of them one way.")
    if not names and not folders:
        raise ConfigError(f"sweep: none named; add sweep=NAME, one of {', '.join(sweeps())}.")
    found: list[Configuration] = []
    problems: list[str] = []
    for each in folders or [f"sweep={name}" for name in names]:
        try:
            found.append(configure([each, *rest]))
        except ConfigError as error:
            problems += error.problems
    named = listed or " ".join(folders)
    problems += [
        f"{named}: two sweeps cannot both be called {name}; a comparison needs sweeps of different names."
        for name, count in Counter(one.sweep.name for one in found).items()
        if count > 1
    ]
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return found


def tracking(overrides: Sequence[str]) -> TrackingSettings:
    """The tracking settings alone: for verbs that need no sweep."""
    problems: list[str] = []
    composed = _compose_folder(overrides)[2] if any(map(names_folder, overrides)) else _compose(overrides)[0]
    settings: TrackingSettings = build(TrackingSettings, composed.get("tracking") or {}, "tracking", problems)
    if problems:
        raise ConfigError(problems)
    return settings


def dump(overrides: Sequence[str]) -> str:
    """The composed configuration as YAML."""
    composed, _ = _compose(overrides)
    return str(OmegaConf.to_yaml(OmegaConf.create(composed)))


def show(argv: Sequence[str]) -> None:
    """`--help`, `--cfg`, `--info` and completion, which are Hydra's own."""
    import hydra

    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, so that `sentence` can say it
    sys.argv = ["posweep", *argv]
    try:
        hydra.main(version_base="1.3", config_path=None, config_name="config")(lambda _: None)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(sentence(error, argv)) from None


# --- an output folder in place of a sweep


def _configure_folder(arguments: Sequence[str]) -> Configuration:
    """The configuration that an output folder records, with overrides on top; what is wrong with it names its file."""
    recorded, before, composed, asked = _compose_folder(arguments)
    problems: list[str] = []
    configuration = checked(composed, recorded.file, problems)
    if problems:
        own: list[str] = []
        checked(before, recorded.file, own)
        raise ConfigError(
            f"{recorded.file}: {problem}" if problem in own and not problem.startswith(recorded.file) else problem
            for problem in _with_what_to_type(problems, arguments)
        )
    return dataclasses.replace(configuration, invocation=asked)


def _compose_folder(
    arguments: Sequence[str],
) -> tuple[RecordedLaunch, dict[str, Any], dict[str, Any], Invocation]:
    """The launch that a folder records, its configuration, the same with overrides on top, and how it was asked for.

    Recorded paths are relative to the working folder of the launch, those in the overrides to that of this command.
    """
    _shadowing.clear()  # nothing is composed from files, unless groups are chosen
    folders, overrides = [a for a in arguments if names_folder(a)], [a for a in arguments if not names_folder(a)]
    if len(folders) > 1:
        raise ConfigError(f"{' '.join(folders)}: this takes one folder; only report takes several.")
    if sweep := [o for o in overrides if re.match(r"[+~]*sweep(=|$)", o)]:
        raise ConfigError(f"{sweep[0]}: {folders[0]} names a sweep already; leave one of the two out.")
    recorded = read_recorded(folders[0])
    original = _recorded_configuration(recorded)
    recorded = named_folder(recorded, original["sweep"]["name"])
    base = recorded.base(original["output_dir"])
    is_choice = [bool(_options(o.lstrip("+~").partition("=")[0])) for o in overrides]
    choices = [o for o, chosen in zip(overrides, is_choice, strict=True) if chosen]
    values = [o for o, chosen in zip(overrides, is_choice, strict=True) if not chosen]
    composed = _choose(recorded, original, choices, base) if choices else original
    # what was typed now is made absolute where it is to be recorded beside paths that start elsewhere
    elsewhere = base.resolve() != Path.cwd().resolve()
    moved = (base / original["output_dir"]).resolve() != recorded.folder.parent.resolve()
    kept = [f"output_dir={_quoted(str(recorded.folder.parent))}"] if moved else []
    absolute = _with_paths(composed, relative_paths(composed, base)) if elsewhere else composed
    effective = _overlay(absolute, [*kept, *values])
    typed = relative_paths(effective, Path.cwd()) if elsewhere else {}
    kept += [*values, *(f"{setting}={_quoted(path)}" for setting, path in typed.items())]
    text = recorded.text
    if choices or kept:
        text = str(OmegaConf.to_yaml(OmegaConf.create(_overlay(composed, kept))))
    earlier = (f"sweep={original['sweep']['name']}",) if recorded.overrides is None else recorded.overrides
    asked = Invocation(tuple(arguments), _merged([*earlier], [*choices, *kept]), str(base), text)
    return recorded, absolute, _with_paths(effective, typed), asked


def _recorded_configuration(recorded: RecordedLaunch) -> dict[str, Any]:
    """What config.yaml holds, as plain data."""
    try:
        composed = OmegaConf.to_container(OmegaConf.create(recorded.text), resolve=True)
    except Exception as error:  # YAML's and OmegaConf's own
        if isinstance(error, OmegaConfBaseException) or type(error).__module__.startswith("yaml"):
            raise damaged(recorded.file, str(error)) from None
        raise
    if not isinstance(composed, dict) or not isinstance(composed.get("sweep"), dict):
        raise damaged(recorded.file, "it holds no sweep")
    texts = {"sweep.name": composed["sweep"].get("name"), "output_dir": composed.setdefault("output_dir", "outputs")}
    if wrong := [name for name, value in texts.items() if not isinstance(value, str) or not value]:
        raise damaged(recorded.file, f"{wrong[0]} is no text")
    return composed  # type: ignore[return-value]


def _choose(recorded: RecordedLaunch, original: Any, choices: list[str], base: Path) -> dict[str, Any]:
    """The configuration composed again with other choices of groups, which a composed one cannot take.

    Raises:
        ConfigError: composing it again does not come to what is recorded.
    """
    if recorded.overrides is None:
        reason = "it was made before posweep recorded what was typed"
    elif not base.is_dir():
        reason = f"{base}, where it was launched, is not there"
    else:
        with contextlib.chdir(base):
            again: Any = None
            with contextlib.suppress(ConfigError):  # a sweep that is gone has changed
                again = _compose(recorded.overrides)[0]
            if again == original:
                return _compose(_merged(recorded.overrides, choices))[0]
        reason = "the files that it was composed from have changed since"
    arguments = shlex.join([*(recorded.overrides or ("sweep=NAME",)), *choices])
    raise ConfigError(
        f"{choices[0]}: cannot be chosen on top of {recorded.typed} ({reason}); give the launch's own arguments in place of "
        f"the folder: {arguments}."
    )


def _overlay(composed: dict[str, Any], values: Sequence[str]) -> dict[str, Any]:
    """A composed configuration with settings on top, which Hydra reads."""
    if not values:
        return composed
    try:
        node = OmegaConf.create(composed)
        OmegaConf.set_struct(node, True)
        parsed = OverridesParser.create().parse_overrides(list(values))
        if several := [override.input_line for override in parsed if override.is_sweep_override()]:
            raise ConfigError(_several_values(str(several[0]), values, lambda rest: _overlay(composed, rest)))
        ConfigLoaderImpl._apply_overrides_to_config(parsed, node)
        return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(sentence(error, values, lambda rest: _overlay(composed, rest))) from None


def _with_paths(composed: dict[str, Any], paths: dict[str, str]) -> dict[str, Any]:
    node = OmegaConf.create(composed)
    for setting, path in paths.items():
        OmegaConf.update(node, setting, path)
    return OmegaConf.to_container(node)  # type: ignore[return-value]


def _merged(earlier: Sequence[str], later: Sequence[str]) -> tuple[str, ...]:
    """Overrides in which the last one of a setting, or of a group, counts."""
    replaced = {o.lstrip("+~").partition("=")[0] for o in later}
    return (*(o for o in earlier if o.lstrip("+~").partition("=")[0] not in replaced), *later)


def _quoted(text: str) -> str:
    """Text as the value of an override."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# --- composition


def _compose(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    for group in (o.partition("=")[0] for o in overrides if re.fullmatch(r"[\w/]+=(null)?", o)):
        if _options(group):
            raise ConfigError(f"{group}: none named; add {group}=NAME, one of {', '.join(_options(group))}.")
    GlobalHydra.instance().clear()
    _shadowing.clear()
    try:
        with initialize(config_path=None, version_base="1.3", job_name="posweep"):
            composed = compose("config", overrides=list(overrides), return_hydra_config=True)
            choices = dict(composed.hydra.runtime.choices)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            return OmegaConf.to_container(composed, resolve=True), choices  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise ConfigError(sentence(error, overrides)) from None
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(sentence(error, overrides)) from None
        raise


def _typed(override: str) -> str:
    """An override as it is typed into a shell."""
    return shlex.quote(override)


def _as_text(key: str, value: str) -> str:
    """An override that Hydra takes for text, whatever signs are in it."""
    return _typed(f'{key}="{value.replace(chr(34), chr(92) + chr(34))}"')


def _with_what_to_type(problems: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Each sentence on text or a list that was taken for something else, with the override to type in its place."""
    given = {key.lstrip("+"): value.strip("'\"") for key, _, value in (o.partition("=") for o in overrides)}
    advised = []
    for problem in problems:
        key, _, rule = problem.partition(": ")
        value = given.get(key, "")
        if value and rule.startswith("must be text, got ") and value[0] not in "[{":
            problem = f"{problem[:-1]}; as text it needs quotes within quotes: {_as_text(key, value)}."
        elif value and rule.startswith("must be a list, got ") and value[0] not in "[{":
            problem = f"{problem[:-1]}; type: {_typed(f'{key}=[{value}]')}."
        elif rule.endswith("got ''.") and key.endswith("sweep.name") and given.get("sweep.name"):
            continue  # it follows from the name that was no text
        advised.append(problem)
    return advised


def _several_values(override: str, overrides: Sequence[str], composed: Callable[[Sequence[str]], Any]) -> str:
    """What to type in place of `a,b`: a list where one is taken, else text."""
    key, _, value = override.partition("=")
    if key in ("method", "judge", "evaluation"):
        return f"{key}: {value} is several values; a list is written in brackets: {_typed(f'{key}=[{value}]')}."
    if _options(key):
        return f"{key}: takes one of {', '.join(_options(key))}, got {value}."
    node: Any = composed([o for o in overrides if o != override])
    for part in key.lstrip("+").split("."):
        node = node.get(part) if isinstance(node, dict) else None
    typed = _typed(f"{key}=[{value}]") if isinstance(node, list) else _as_text(key, value)
    form = "a list is written in brackets" if isinstance(node, list) else "as text it needs quotes within quotes"
    return f"{key}: {value} is several values; {form}: {typed}."


def sentence(
    error: BaseException, overrides: Sequence[str] = (), composed: Callable[[Sequence[str]], Any] | None = None
) -> str:
    """One sentence for what Hydra says in several lines: what is wrong, and what there is instead."""
    composed = composed or (lambda rest: _compose(rest)[0])
    text = " ".join(str(error).split())
    missing = re.search(r"Could not (?:find|load) '([\w/]+)/([^/']+)'", text)
    if missing:
        group, name = missing.groups()
        if group == "sweep":
            return f"sweep={name}: no such sweep; there are {', '.join(sweeps())}.{nearest(name, sweeps())}"
        options = _options(group)
        if not options:
            return f"{group}={name}: no such setting (posweep --cfg job shows all)."
        return f"{group}={name}: no such {group}; there are {', '.join(options)}.{nearest(name, options)}"
    unknown = re.search(r"Could not (?:override|append to config)[^']*'([^']+)'", text)
    if unknown:
        return _unknown_setting(unknown.group(1), overrides, composed)
    if ambiguous := re.match(r"Ambiguous value for argument '(.*?)' 1\.", text):
        return _several_values(ambiguous[1], overrides, composed)
    if deleted := re.match(r"Could not delete '([^']+)'", text):
        return f"~{deleted[1]}: cannot be taken away; {deleted[1]}=… sets it to something else."
    key, _, value = str(getattr(error, "override", None) or "").partition("=")
    if value and value[0] not in "[{":
        typed = _as_text(key, value)
        return f"{key}: {value} cannot be read; text with other signs in it needs quotes within quotes: {typed}."
    if value:
        return (
            f"{key}: {value} cannot be read; a list is [a,b], a mapping {{a: b}}, and text with other signs in it needs "
            f"quotes within quotes: '{key}=\"…\"'."
        )
    merged = re.fullmatch(r"Error merging override ([^=]+)=(.*)", text)
    if merged:
        return f"{merged[1]}: cannot take {merged[2]}, which is of another kind (posweep --cfg job shows all settings)."
    text = text.split(" See https://")[0]
    return text if text.endswith(".") else f"{text}."


def _unknown_setting(key: str, overrides: Sequence[str], composed: Callable[[Sequence[str]], Any]) -> str:
    section, _, name = key.rpartition(".")
    rest = [o for o in overrides if not _sets(o, key)]
    try:
        if len(rest) == len(overrides):
            raise KeyError(key)  # it stands in a file: composing again would end here again
        node: Any = composed(rest)
        for part in section.split(".") if section else ():
            node = node[part]
        known = list(node)
    except (ConfigError, KeyError, TypeError):
        return f"{key}: no such setting (posweep --cfg job shows all)."
    if name in known and isinstance(node[name], dict):
        given = next(o.partition("=")[2] for o in overrides if o.lstrip("+~").startswith(f"{key}="))
        return f"{key}: cannot take {given}; it holds {', '.join(node[name])} (+{key}.NAME=… adds another)."
    given = next((o for o in overrides if o.lstrip("+~").partition("=")[0] == key), "")
    if name in known and given.startswith("+"):
        return f"{key}: is there already; type: {_typed(given.lstrip('+'))}."
    if section in FREE or section.endswith(".columns"):
        return f"{key}: is not there yet; type: {_typed(f'+{given}')}."
    where = section or "the configuration"
    if section.startswith("method."):
        method = section.split(".")[1]
        if section.endswith("hyperparameters") and method in OBJECTIVES:
            return f"{key}: {unknown_hyperparameter(method, name)}"
    return f"{key}: no such setting; {where} takes {', '.join(map(str, known))}.{nearest(name, known)}"


def _sets(override: str, key: str) -> bool:
    """Whether an override sets a key, or a mapping around it; the choice of a group does not."""
    name = override.lstrip("+~").partition("=")[0]
    return key == name or (key.startswith(f"{name}.") and not _options(name))


def _options(group: str) -> list[str]:
    found = {f.stem for folder in search_folders().values() for f in (folder / _within(group)).glob("*.yaml")}
    return sorted(found | ({"all"} if group == "method" else set()))
