"""Ours beside what others have, and what it costs."""
