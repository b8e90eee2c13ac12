"""What is written down and read back: nothing, or MLflow. One module a tracker, one row in `open_tracker`."""

from posweep.settings import TrackingSettings
from posweep.trackers.base import NullTracker, Tracker


def open_tracker(settings: TrackingSettings) -> Tracker:
    """The tracker that the settings name."""
    if settings.kind == "none":
        return NullTracker()
    from posweep.trackers.mlflow import MlflowTracker

    return MlflowTracker(settings.uri)


__all__ = ["NullTracker", "Tracker", "open_tracker"]
