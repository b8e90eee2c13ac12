"""What the verbs print: the plan before it runs, what became of it, one trial, the summary at the end."""

from posweep.console.plan import print_keys, print_lines, print_plan
from posweep.console.probe import print_probe
from posweep.console.status import print_status
from posweep.console.summary import print_comparison, print_facts, print_summary
from posweep.console.trial import print_export, print_trial

__all__ = [
    "print_comparison",
    "print_export",
    "print_facts",
    "print_keys",
    "print_lines",
    "print_plan",
    "print_probe",
    "print_status",
    "print_summary",
    "print_trial",
]
