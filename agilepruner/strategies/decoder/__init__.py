"""Strategies that prune inside the language model, during prefill."""
