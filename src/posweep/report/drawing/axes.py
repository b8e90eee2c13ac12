"""What an axis needs to be read: a √ scale for KL, ticks that do not touch, short numbers, places along an axis."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from posweep.fields import About, about
from posweep.objectives import OBJECTIVES, hyperparameters
from posweep.settings import TrainSettings

Transform = Callable[[ArrayLike], NDArray[np.float64]]
FEW = 12  # distinct values that may all be ticks
ROUND_NATS = [0.0, *(digit * 10.0**power for power in range(-3, 5) for digit in (1, 2, 5))]


@functools.cache
def declared(method: str, name: str) -> About:
    """What is known of a hyperparameter or, if the method has none of that name, of a training setting."""
    known = hyperparameters(OBJECTIVES[method]) if method in OBJECTIVES else {}
    shared = {field.name: about(field) for field in dataclasses.fields(TrainSettings)}
    return known.get(name) or shared.get(name) or About()


def symbol(method: str, name: str) -> str:
    """How a hyperparameter or setting is written."""
    return declared(method, name).symbol or name.replace("_", " ")


def number(value: Any) -> str:
    """A setting's value in as few characters as it needs: 0.05, 3e-4, linear."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if 0 < abs(value) < 1e-2:
        mantissa, _, power = f"{value:.6e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:g}"


def root(values: ArrayLike) -> NDArray[np.float64]:
    """√ with the sign kept, so that a margin below 0 can be drawn."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.sign(numbers) * np.sqrt(np.abs(numbers))


def square(values: ArrayLike) -> NDArray[np.float64]:
    """The inverse of `root`."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.sign(numbers) * numbers**2


def nats_axis(axes: Axes, which: str, highest: float, share: float = 0.085) -> None:
    """Make one axis a √ scale from 0 to a little above `highest` nats: 0 shows, 0.1 and 100 are both legible."""
    top = max(highest, 1e-3) * 1.12
    getattr(axes, f"set_{which}scale")("function", functions=(root, square))
    getattr(axes, f"set_{which}lim")(-0.0012 * top, top)
    ticks = spaced([value for value in ROUND_NATS if value <= top], root, float(root(top)), share)
    set_ticks(getattr(axes, f"{which}axis"), ticks)


def spaced(values: Sequence[float], transform: Transform, span: float, share: float) -> list[float]:
    """The values that stay at least a share of the axis apart; the smallest is kept, then from the largest down."""
    kept: list[float] = []
    for value in (min(values), *sorted(values, reverse=True)):
        if all(abs(float(transform(value)) - float(transform(other))) >= share * span for other in kept):
            kept.append(value)
    return sorted(kept)


def set_ticks(axis: Axis, ticks: Sequence[float], labels: Sequence[str] | None = None) -> None:
    """Exactly these ticks with short labels."""
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_major_formatter(FixedFormatter(list(labels or map(number, ticks))))
    axis.set_minor_locator(NullLocator())


def places(values: pd.Series, scale: str) -> tuple[NDArray[np.float64], str]:
    """Where a setting's values lie on their axis, and the axis's kind: log, linear, or words one beside the other."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any() or values.map(lambda value: isinstance(value, bool)).any():
        words = list(dict.fromkeys(map(str, values)))
        return np.array([words.index(str(value)) for value in values], dtype=np.float64), "words"
    kind = "log" if scale == "log" and (numbers > 0).all() else "linear"
    return numbers.to_numpy(dtype=np.float64), kind


def setting_axis(axes: Axes, values: pd.Series, scale: str, tick_share: float = 0.14) -> NDArray[np.float64]:
    """Make the x axis one setting's: its scale, its own values as ticks where few. Returns where the values lie.

    Ticks stay at least `tick_share` of the axis apart.
    """
    at, kind = places(values, scale)
    transform: Transform = np.log if kind == "log" else np.asarray
    low, high = float(transform(at.min())), float(transform(at.max()))
    margin = 0.12 * (high - low) or 0.5
    back = math.exp if kind == "log" else float
    axes.set_xscale("log" if kind == "log" else "linear")
    axes.set_xlim(back(low - margin), back(high + margin))
    if kind == "words":
        set_ticks(axes.xaxis, range(int(high) + 1), list(dict.fromkeys(map(str, values))))
    elif kind == "log" or len(np.unique(at)) <= FEW:
        set_ticks(axes.xaxis, spaced(_candidates(at), transform, high - low + 2 * margin, tick_share))
    return at


def _candidates(at: NDArray[np.float64]) -> list[float]:
    """The values themselves where few, else the round numbers among them; a narrow range may hold none of those."""
    distinct = np.unique(at)
    if len(distinct) <= FEW:
        return [float(value) for value in distinct]
    powers = range(math.floor(math.log10(at.min())), math.ceil(math.log10(at.max())) + 1)
    rounded = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    return [value for value in rounded if at.min() <= value <= at.max()] or [float(at.min()), float(at.max())]
