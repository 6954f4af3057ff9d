"""Photographs of the paper tier: what finetuning visits, and the splits of evaluation."""
