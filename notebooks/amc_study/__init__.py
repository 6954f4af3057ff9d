"""The study: scenes, the rival, explanations, ablations, figures, pages, and the order in which they are made."""
