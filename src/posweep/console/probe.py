"""One short trial per method, before the plan says what it knows from them: posweep plan plan.probe=true."""

from __future__ import annotations

from posweep.cost import Probed
from posweep.objectives import OBJECTIVES
from posweep.settings import Configuration
from posweep.terminal import open_console


def print_probe(configuration: Configuration) -> None:
    """Run the short trials and print what each took.

    Raises:
        PreflightError: something the trials need is not there.
    """
    from posweep.probe import probe

    console = open_console()
    for method, probed in probe(configuration, lambda text: console.print(text)).items():
        console.print(f"{OBJECTIVES[method].title}: {_taken(probed)}")


def _taken(probed: Probed) -> str:
    return (
        f"{probed.step:.3g} s a step of {probed.batch_size} pairs, {probed.evaluation:.3g} s an evaluation, "
        f"{probed.other:.3g} s for the rest"
    )
