"""The page with the charts of all runs: shown in TensorBoard's tab, and written as one HTML file."""
