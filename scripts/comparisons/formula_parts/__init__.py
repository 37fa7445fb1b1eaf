"""The parts of formulas.py: architectures, counts by hand, other teams' formulas, and who is right."""
