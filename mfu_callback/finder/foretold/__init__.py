"""What a step would take, from fake tensors: memory and batch size without a trial."""
