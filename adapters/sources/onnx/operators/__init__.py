"""Operators: those of ONNX as functions of PyTorch, by name; a file for each kind of them.

A function takes the node and its inputs, None for one that is left out, and returns the output, or
a tuple of several.
"""
