"""Benchmarks: lmms-eval's tasks, their documents, and scoring by replay."""
