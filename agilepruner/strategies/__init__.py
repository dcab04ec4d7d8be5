"""Strategies: which visual tokens the language model sees. Pure maths, torch only."""
