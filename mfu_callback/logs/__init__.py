"""What a run has logged, read from its files: for the tab and for the report. Needs neither torch nor lightning."""
