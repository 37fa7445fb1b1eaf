"""Tests of mfu_callback/report."""
