"""Weights in files: TensorFlow's checkpoints, and the models that Spleeter released."""
