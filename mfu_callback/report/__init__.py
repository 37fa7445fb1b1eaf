"""What people are told of a run: at its end, and later from its files (`python -m mfu_callback.report`)."""
