"""Configurations: their schema, where they are found, the ones that ship."""
