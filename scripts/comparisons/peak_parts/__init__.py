"""The device names on which look-ups of peaks are compared."""
