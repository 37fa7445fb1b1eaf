"""MFUCallback and the code behind it that works with a Lightning Trainer."""
