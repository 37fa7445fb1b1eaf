"""MFUCallback, and everything else that listens to a Lightning Trainer."""
