"""What several tests use: models, runs, closed forms, readers of event files."""
