"""Spleeter's released weights: found, fetched and read, without TensorFlow."""
