"""Predictions from fake tensors: the memory of a step, and the batch size, without a trial."""
