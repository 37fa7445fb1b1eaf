"""The parts of scripts/comparisons/gpts.py."""
