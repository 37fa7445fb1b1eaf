"""Tests of mfu_callback/peaks."""
