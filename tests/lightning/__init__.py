"""Tests of mfu_callback/lightning, in a real Trainer."""
