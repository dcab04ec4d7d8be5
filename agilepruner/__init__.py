"""Compare visual-token-pruning strategies on vision-language models, and trust the numbers."""

__version__ = "0.1.0"
