"""What is written down and read back: nothing, or MLflow. One module a tracker, one row in `open_tracker`."""

from posweep.settings import Configuration, TrackingSettings
from posweep.trackers.base import NullTracker, Tracker


def open_tracker(settings: TrackingSettings) -> Tracker:
    """The tracker that the settings name."""
    if settings.kind == "none":
        return NullTracker()
    from posweep.trackers.mlflow import MlflowTracker

    return MlflowTracker(settings.uri)


def sync_command(configuration: Configuration) -> str:
    """What to type to send the rest: the sweep, and what is not where it is by default."""
    given = {"output_dir": configuration.output_dir, "tracking.uri": configuration.tracking.uri}
    default = {"output_dir": Configuration.output_dir, "tracking.uri": TrackingSettings.uri}
    return " ".join(
        [f"posweep sync sweep={configuration.sweep.name}"]
        + [f"{name}={value}" for name, value in given.items() if value != default[name]]
    )


__all__ = ["NullTracker", "Tracker", "open_tracker", "sync_command"]
