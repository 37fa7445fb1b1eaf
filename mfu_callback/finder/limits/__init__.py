"""Limits on the memory that a trial may use, and how exceeding them is detected."""
