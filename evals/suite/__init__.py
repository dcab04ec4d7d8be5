"""The embedded suite: synthetic documents for ten benchmarks, and the code that draws them."""
