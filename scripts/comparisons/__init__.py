"""Comparisons of this package with other tools, and measurements of what it costs."""
