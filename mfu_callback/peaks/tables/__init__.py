"""The rates of devices, by maker and kind, each with its source."""
