"""How each kind of figure is drawn: functions from tables to matplotlib figures."""
