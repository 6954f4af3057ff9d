"""Whether a heatmap explains: quality, faithfulness, randomisation, retrieval, claims."""
