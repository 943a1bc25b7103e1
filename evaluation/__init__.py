"""Evaluation of models: scores on MUSDB18 and other songs, comparisons, reports, ablations."""
