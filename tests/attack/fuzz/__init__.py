"""Fuzzing of everything that Penstock reads and somebody else may have written: `scripts/fuzz TARGET|all --seconds N`.

A target takes bytes and raises for a fault: any error that its reader's contract does not name.
"""
