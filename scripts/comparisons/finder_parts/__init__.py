"""The parts of the comparison of batch size finders."""
