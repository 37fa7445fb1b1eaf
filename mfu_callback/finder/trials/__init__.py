"""Trials: steps at one batch size, after which everything is restored."""
