import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from posweep.artifacts.store import Store

CONTENT = {"model": {"size": 3}, "seed": 0}


@pytest.fixture
def here(tmp_path):
    return Store(tmp_path)


def maker(calls: list[Path]):
    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "deep").mkdir()
        (folder / "weights.bin").write_bytes(b"x" * 100)
        (folder / "deep" / "notes.txt").write_text("made")

    return make


def test_an_artifact_is_made_once(here):
    calls: list[Path] = []
    folders = [here.get("sft", CONTENT, maker(calls)) for _ in range(3)]
    assert len(set(folders)) == len(calls) == 1
    assert (folders[0] / "deep" / "notes.txt").read_text() == "made"


def test_the_order_of_the_content_does_not_matter(here):
    calls: list[Path] = []
    turned = {"seed": 0, "model": {"size": 3}}
    assert here.get("sft", CONTENT, maker(calls)) == here.get("sft", turned, maker(calls))


@pytest.mark.parametrize(("kind", "content"), [("sft", {**CONTENT, "seed": 1}), ("pairs", CONTENT), ("sft", {})])
def test_other_content_or_another_kind_is_another_artifact(here, kind, content):
    calls: list[Path] = []
    assert here.get("sft", CONTENT, maker(calls)) != here.get(kind, content, maker(calls))
    assert len(calls) == 2


def test_what_is_made_is_said(tmp_path):
    said: list[str] = []
    for _ in range(2):
        Store(tmp_path, said.append).get("sft", CONTENT, maker([]))
    assert said == ["sft"]


def test_a_making_that_fails_leaves_nothing(here):
    def broken(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        here.get("sft", CONTENT, broken)
    assert [file.name for file in here.root.rglob("*") if not file.name.endswith(".lock")] == ["sft"]
    calls: list[Path] = []
    here.get("sft", CONTENT, maker(calls))
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["weights.bin", "manifest.json", "deep/notes.txt"])
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-1])])
def test_a_damaged_artifact_is_made_again(here, name, damage):
    calls: list[Path] = []
    folder = here.get("sft", CONTENT, maker(calls))
    damage(folder / name)
    assert here.get("sft", CONTENT, maker(calls)) == folder
    assert len(calls) == 2
    assert (folder / "weights.bin").stat().st_size == 100


def test_threads_at_once_make_it_once(here):
    calls: list[Path] = []
    together = threading.Barrier(4)

    def get() -> None:
        together.wait()
        here.get("sft", CONTENT, lambda folder: (time.sleep(0.1), maker(calls)(folder)))

    workers = [threading.Thread(target=get) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls) == 1


def test_processes_at_once_make_it_once(here):
    program = f"""
import os, time
from pathlib import Path
from posweep.artifacts.store import Store
def make(folder):
    time.sleep(0.3)
    Path({str(here.root)!r}, f"made-by-{{os.getpid()}}").touch()
    (folder / "file").touch()
Store(Path({str(here.root)!r})).get("sft", {CONTENT!r}, make)
"""
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(30) for process in running] == [0, 0]
    assert len(list(here.root.glob("made-by-*"))) == 1
