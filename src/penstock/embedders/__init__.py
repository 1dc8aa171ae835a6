"""Embedders: a model a file, and the parts that they share."""
