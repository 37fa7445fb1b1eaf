"""Tests of mfu_callback/logs."""
