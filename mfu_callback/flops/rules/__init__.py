"""What each operator computes: FLOP formulas, and how a call is read."""
