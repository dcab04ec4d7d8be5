"""Baselines: no pruning, no image, chance, and even coverage."""
