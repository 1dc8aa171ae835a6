"""Streams documents through parse, chunk and embed into a vector database."""
