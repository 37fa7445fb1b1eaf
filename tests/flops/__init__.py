"""Tests of mfu_callback/flops."""
