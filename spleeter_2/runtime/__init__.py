"""Networks made ready for inference."""
