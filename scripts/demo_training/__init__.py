"""The parts of the demo model's training; `scripts/train_demo_model.py` is the entry point."""
