"""Detectors: models that find boxes, and a map of each box that they find."""
