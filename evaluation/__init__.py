"""Evaluate models: scores on MUSDB18 and the like, comparison of runs, reports."""
