"""Gradient: the way back through a tail, in forward operators."""
