"""What a comparison of batch-size finders is made of."""
