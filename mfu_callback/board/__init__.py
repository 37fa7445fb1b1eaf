"""What TensorBoard shows of a run besides its curves: a dashboard, a card, HParams, and the tab "MFU"."""
