"""Strategies that rank tokens by the vision tower's attention."""
