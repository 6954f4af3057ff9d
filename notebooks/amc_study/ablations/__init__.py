"""Ablations: which part of the method does what. Notebook 05 defines the grid and shows its tables."""
