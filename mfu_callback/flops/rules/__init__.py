"""FLOP formulas for operators, and how they read the arguments of a call."""
