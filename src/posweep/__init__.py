"""posweep: which preference-optimization method is most likely to give a good model when you cannot afford to search?

The way the data flows:

    conf + sweeps → config → plan → artifacts → trial( train → generate → judge → measure ) → tracker → robustness → report
"""

__version__ = "0.1.0"
