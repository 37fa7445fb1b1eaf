"""The benchmark, the plan, and the programs that print every figure in the README."""
