"""Separation of songs into stems."""
