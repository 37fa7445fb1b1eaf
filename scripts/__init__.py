"""The benchmark and the plan, and the programs that print every figure that the README quotes."""
