"""The FLOP counters that are compared, what they count, and the process that counts."""
