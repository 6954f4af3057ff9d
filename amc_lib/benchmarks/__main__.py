"""`python -m amc_lib.benchmarks`: the README's table anew, out of figures/benchmarks.csv."""

from amc_lib.benchmarks.summary import renew_readme

renew_readme()
