"""Tests of mfu_callback/finder."""
