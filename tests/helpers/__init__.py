"""What several tests use: models, runs, closed forms, readers of what was written."""
