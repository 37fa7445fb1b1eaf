"""Tests of gpt."""
