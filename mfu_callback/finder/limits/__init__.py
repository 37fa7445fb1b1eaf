"""How much memory a trial may take, and how it is told that it took more."""
