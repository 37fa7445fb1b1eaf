"""Steps at one batch size, after which everything is as before."""
