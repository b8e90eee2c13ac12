"""Where trials run: in this process, or on Ray. One module an executor, one row in `open_executor`."""

from posweep.executors.base import Event, Executor, Work
from posweep.settings import ExecutorSettings


def open_executor(settings: ExecutorSettings) -> Executor:
    """The executor that the settings name."""
    if settings.kind == "local":
        from posweep.executors.local import LocalExecutor

        return LocalExecutor(settings)
    from posweep.executors.ray import RayExecutor

    return RayExecutor(settings)


__all__ = ["Event", "Executor", "Work", "open_executor"]
