"""Strategies that mix attention and diversity, fixed or per image."""
