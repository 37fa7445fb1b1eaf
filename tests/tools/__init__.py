"""Tests of mfu_callback/tools."""
