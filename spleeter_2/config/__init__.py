"""Configurations: schema, validation, loading, presets."""
