"""Strategies that spread over the tokens' feature space."""
