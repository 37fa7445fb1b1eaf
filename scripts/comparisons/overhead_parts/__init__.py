"""The run whose cost is measured."""
