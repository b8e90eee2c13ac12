"""Any encoding, any reader, any name: what is printed is text, and what is written is UTF-8."""

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.text import Text

from posweep import cli
from posweep.streams import READER_GONE, undecodable
from posweep.terminal import LiteralConsole, table_of

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "posweep").rglob("*.py"))
LITERAL = ["exp[v1]", "reward [mean]", "[/]", "[bold]x[/bold]", "a:smile:b", "[red", "\\[x]", "[link=x]y"]


@pytest.mark.parametrize("text", LITERAL)
def test_text_is_printed_as_it_is(text):
    out = io.StringIO()
    console = LiteralConsole(out, width=80)
    table = table_of("name", text, numbers=1)
    table.title = text
    table.add_row(text, "1")
    console.print(text)
    console.print(table)
    console.print(Text(text, style="red"))
    lines = [line.split("  ") for line in out.getvalue().splitlines()]
    assert lines[0] == [text]
    assert text in lines[1][0]
    assert any(text in cell for cell in lines[2][1:])
    assert lines[3][0].strip() == text
    assert lines[4] == [text]


def test_only_the_door_to_rich_makes_consoles_and_no_markup_is_read():
    for file in SOURCES:
        text = file.read_text(encoding="utf-8")
        if file.name != "terminal.py":
            assert "rich.console import Console" not in text, file
        assert "rich.markup" not in text, file
        assert "from rich import" not in text, file


def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the sources, by file and line."""
    found = []
    for file in SOURCES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found += [(f"{file.name}:{n.lineno}", n) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    return found


def test_files_are_text_in_utf_8_whatever_the_locale():
    """`open`, `read_text`, `write_text` and pipes of other programs would otherwise take the locale's encoding."""
    for where, call in calls():
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        given = {keyword.arg for keyword in call.keywords}
        modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
            assert "encoding" in given, where
        if name == "open" and (isinstance(call.func, ast.Name) or modes) and not any("b" in mode for mode in modes):
            assert "encoding" in given, where
        if name in ("run", "Popen", "check_output"):
            assert "text" not in given, where


def test_tokenizers_show_no_progress_of_their_own():
    """Their bar would stand inside the live table."""
    trained = [(where, call) for where, call in calls() if getattr(call.func, "attr", "").endswith("LevelTrainer")]
    trained += [(where, call) for where, call in calls() if getattr(call.func, "attr", "") == "BpeTrainer"]
    assert len(trained) == 2
    for where, call in trained:
        assert "show_progress" in {keyword.arg for keyword in call.keywords}, where


def posweep(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "from posweep.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip


NARROW = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""},
}


@pytest.mark.parametrize("environment", NARROW.values(), ids=NARROW)
def test_what_an_encoding_lacks_is_replaced(tmp_path, monkeypatch, environment):
    """DPO's β in a table, an ellipsis in a sentence of a mistake."""
    monkeypatch.chdir(tmp_path)
    ran = posweep("plan", "sweep=smoke", "+method.sft.x=1", **environment)
    assert (ran.returncode, ran.stdout, b"Traceback" in ran.stderr) == (2, b"", False)
    assert b"add sft to method=[?]" in ran.stderr
    ran = posweep("plan", "sweep=smoke", **environment)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"? 2" in ran.stdout


def test_json_lines_are_the_same_in_every_encoding(tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["posweep", "plan", "sweep=smoke", "keys=jsonl", "sweep.seeds=[3]"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsysbinary.readouterr().out
    assert printed.isascii()
    assert {json.loads(line)["seed"] for line in printed.splitlines()} == {3}


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", "sweep=methods", "keys=jsonl"], ["plan", "sweep=smoke", "keys=all"]],
    ids=" ".join,
)
def test_a_reader_who_leaves_is_no_error(tmp_path, arguments):
    """stdout is a pipe whose other end is closed before anything is written."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "from posweep.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path, timeout=60,
        check=False,
    )  # fmt: skip
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (READER_GONE, b"")


def test_a_broken_socket_is_no_closed_pipe(monkeypatch):
    def broken(_: object) -> int:
        raise BrokenPipeError("of a server")

    monkeypatch.setattr(cli, "run", broken)
    with pytest.raises(BrokenPipeError, match="of a server"):
        cli.main()


def test_bytes_that_are_no_text_are_a_sentence():
    (sentence,) = undecodable(["sweep=demo", "output_dir=a\udcff"])
    assert (
        sentence == "output_dir=a?: holds bytes that are no text in this system's encoding (utf-8); rename it in UTF-8."
    )


def test_a_working_folder_that_is_gone_is_a_sentence(tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["posweep", "plan", "sweep=demo"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("The working folder is not there (No such file or directory); ")
