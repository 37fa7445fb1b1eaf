"""Tests of mfu_callback/board."""
