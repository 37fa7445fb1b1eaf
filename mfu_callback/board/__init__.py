"""What TensorBoard shows of a run beside its values: a dashboard, a card, HParams, and a tab of its own."""
