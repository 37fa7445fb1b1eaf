"""The parts of scripts/comparisons/loops.py."""
