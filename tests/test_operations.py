"""The page for operators: its sentences are those of the program, and its commands are understood."""

import re
import shlex
from pathlib import Path

import pytest

from posweep import cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SAID = re.findall(r"^### `(.*)`$", PAGE, re.M)
COMMANDS = re.findall(r"^posweep .*$", PAGE, re.M)


@pytest.fixture(scope="module")
def source() -> str:
    """The text of the package and of its one script, with the pieces of a sentence put together."""
    files = [*sorted((ROOT / "src" / "posweep").rglob("*.py")), ROOT / "jobs" / "slurm.sh"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("words", SAID)
def test_the_words_that_head_a_section_are_the_program_s(words: str, source: str) -> None:
    assert words in source


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str, monkeypatch) -> None:
    """Up to the verb, which gets arguments that it takes."""
    seen: list[list[str]] = []
    verb, *rest = shlex.split(command, comments=True)[1:]
    name = verb if verb in cli.VERBS else "launch"
    monkeypatch.setitem(cli.VERBS, name, seen.append)
    assert cli.run([verb, *rest]) == 0
    assert seen == [rest if verb in cli.VERBS else [verb, *rest]]


def test_exit_codes_are_those_of_the_errors() -> None:
    from posweep import errors

    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.M)}
    kinds = {
        error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")
    }
    assert codes == kinds | {0}
