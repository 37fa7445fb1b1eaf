"""Reads what a run has logged from its files, for the tab and the report. Needs neither torch nor lightning."""
