"""Benchmarks: `python -m tests.bench` measures and writes figures/benchmarks.csv and figures/paper_step.csv."""
