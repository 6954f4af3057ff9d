"""Drawn scenes: pictograms with names, composed with exact boxes."""
