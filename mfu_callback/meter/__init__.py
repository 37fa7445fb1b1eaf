"""One run's measurements, joined: seconds, tokens, FLOPs and peaks. Knows no trainer."""
