"""Passes: many runs of a model or its tail, a chunk at a time, in one loop of the graph."""
