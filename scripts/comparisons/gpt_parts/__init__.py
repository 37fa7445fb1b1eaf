"""The parts of scripts/comparisons/gpt.py."""
