"""Trace: a model and what is explained of it become one functional graph."""
