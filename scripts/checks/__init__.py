"""Checks of this project's claims; each program checks one claim."""
