"""Inference of a trained network."""
