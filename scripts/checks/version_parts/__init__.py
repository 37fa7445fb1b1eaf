"""The parts of scripts/checks/versions.py."""
