"""The names of devices that look-ups of peaks are compared on."""
