"""Prove: a written file beside eager PyTorch."""
