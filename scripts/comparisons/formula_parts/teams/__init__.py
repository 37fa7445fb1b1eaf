"""One file per team: which architectures its formula is for, and how the formula is run from its own source."""
