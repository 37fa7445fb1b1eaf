"""Shows the figures of runs: at the end of fit, and later from their files (`python -m mfu_callback.report`)."""
