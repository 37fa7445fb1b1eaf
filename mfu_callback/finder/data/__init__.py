"""The data of trials: loaders, samples, and batches of any size."""
