"""Sinks: where points go. One file a store; its driver is imported by `open()`."""
