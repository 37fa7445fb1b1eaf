"""The page with the charts of all runs, for a browser: in TensorBoard's tab and as a file of its own."""
