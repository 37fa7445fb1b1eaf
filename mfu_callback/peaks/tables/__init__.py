"""The rates of devices by vendor and kind, each with its source."""
