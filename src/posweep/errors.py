"""What can go wrong, one class per kind; each is also its standard-library kin, and survives pickling between processes."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable


def first_line(error: BaseException) -> str:
    """What an error of another program says, short enough for a sentence of ours, and without a password in an address."""
    line = (str(error).strip().partition("\n")[0] or type(error).__name__)[:200].rstrip(".")
    return without_password(line)


def without_password(text: str) -> str:
    """A text whose addresses do not show what stands before their @."""
    return re.sub(r"://[^/@\s]+@", "://…@", text)


class PosweepError(Exception):
    """Anything posweep says to its user in a sentence; `exit_code` is what the command line returns for it."""

    exit_code = 1


class ConfigError(PosweepError, ValueError):
    """One or more mistakes in a configuration, found before anything was started."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str]):
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class DataError(ConfigError):
    """A data file that is missing or malformed; names the file and the line."""


class PreflightError(ConfigError):
    """Something the sweep needs (a GPU, a cluster, a tracking server, the sweep's own lock) is not to be had."""


class ShapeError(PosweepError, ValueError):
    """Tensors whose shapes do not fit an objective; names both shapes."""


class JudgeUnavailable(PosweepError, ConnectionError):
    """A judge that does not answer, for good; what it was to judge is kept."""

    exit_code = 3


class StorageUnavailable(PosweepError, ConnectionError):
    """A storage that does not answer, for good; what is finished is kept where it was made."""

    exit_code = 3


class TrackerUnavailable(PosweepError, ConnectionError):
    """The tracker did not do what it was asked to; nothing is lost, for the ledger has everything."""

    exit_code = 2


class TrialsFailed(PosweepError):
    """Trials failed although the configuration was right."""

    exit_code = 3


class Diverged(PosweepError, ArithmeticError):
    """A loss or gradient that is no longer finite: a result of the trial, not a failure of the sweep."""

    def __init__(self, step: int, what: str = "loss"):
        self.step, self.what = step, what
        super().__init__(f"the {what} is not finite at step {step}")

    def __reduce__(self) -> tuple[type[Diverged], tuple[int, str]]:
        return type(self), (self.step, self.what)


class NotFinite(PosweepError, ArithmeticError):
    """Numbers that should be finite and are not; `what` they are."""

    def __init__(self, what: str, sentence: str = ""):
        self.what = what
        super().__init__(sentence or f"the {what} is not finite")

    def __reduce__(self) -> tuple[type[NotFinite], tuple[str, str]]:
        return type(self), (self.what, str(self))


class OutOfMemory(PosweepError, MemoryError):
    """What a trial needs does not fit, however little of it is done at once; says what to set."""

    exit_code = 3


class Stopped(PosweepError):
    """The sweep was asked to stop: the trial left a checkpoint and neither result nor failure."""

    exit_code = 130


class NoRoom(PosweepError, OSError):
    """The sweep's folder takes no more files: everything finished is kept, and nothing that runs on could be."""

    exit_code = 3

    def __init__(self, place: str, reason: str):
        self.place, self.reason = place, reason
        super().__init__(
            f"{place} takes no more files ({reason}). Everything finished is kept; make room, and launch again to go on."
        )

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[type[NoRoom], tuple[str, str]]:
        return type(self), (self.place, self.reason)


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
WORDS = ("No space left on device", "Disk quota exceeded", "Read-only file system")
"""As libraries quote the system, which do not raise OSError themselves."""


def no_room(error: BaseException) -> str:
    """Why nothing could be written, where that was the error; else empty."""
    if isinstance(error, OSError) and error.errno in FULL:
        return error.strerror or str(error)
    return next((words for words in WORDS if words in str(error)), "")
