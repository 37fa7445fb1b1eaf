"""Tests of mfu_callback/meter."""
