"""What is asked of Tune: a class once, not five times a trial. Where Ray's sockets lie."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from ray.tune.registry import _global_registry as registry

from posweep.errors import PreflightError
from posweep.executors.ray import SOCKETS, _looked_up_once, _socket_folder


def test_a_class_is_looked_up_once_and_only_as_long_as_trials_run(monkeypatch):
    asked, there = [], {}
    monkeypatch.setattr(type(registry), "get", lambda _, *name: asked.append(name) or there[name])
    monkeypatch.setattr(type(registry), "contains", lambda _, *name: asked.append(name) or name in there)
    name = ("trainable_class", "Trial")
    with _looked_up_once():
        assert not registry.contains(*name)  # it is registered when the fit has begun
        there[name] = object
        assert [registry.contains(*name) for _ in range(3)] == [True] * 3
        assert [registry.get(*name) for _ in range(3)] == [object] * 3
        assert len(asked) == 3
    del there[name]
    assert not registry.contains(*name)


NAMES = {
    "short": ("t", True), "long": ("t" * 80, False), "of other letters": ("ö", False), "with a space": ("a b", False),
    "with brackets": ("v[1]", False),
}  # fmt: skip


@pytest.mark.parametrize(("name", "fits"), NAMES.values(), ids=NAMES)
def test_sockets_get_a_folder_with_a_short_name_where_tmpdir_has_none(monkeypatch, name, fits):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as root:
        chosen = Path(root) / name
        chosen.mkdir()
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", str(chosen))
        folder = _socket_folder()
        assert (folder is None) == fits
        if folder:
            assert len(os.fsencode(folder)) <= SOCKETS
            assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
            Path(folder).rmdir()


def test_a_tmpdir_that_is_not_there_is_no_folder_for_sockets(monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/no/such/folder")
    folder = _socket_folder()
    assert folder
    Path(folder).rmdir()
    monkeypatch.setattr("tempfile.mkdtemp", _refuse)
    with pytest.raises(PreflightError, match=r"^TMPDIR: Ray needs a folder with a name of at most"):
        _socket_folder()


def _refuse(**_):
    raise PermissionError("read-only")
