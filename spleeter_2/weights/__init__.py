"""Weights in files: TensorFlow's checkpoints, read and written with NumPy."""
