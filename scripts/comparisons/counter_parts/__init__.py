"""The FLOP counters that are compared, the models that they count, and the process that runs a count."""
