"""Servers that cannot be had everywhere, as their official clients see them: strict about what is sent."""
