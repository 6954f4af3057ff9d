"""figures/README.md, a page that shows and explains every figure and table: `python -m amc_study.report.gallery` renews it.

The page is made of the files under figures/ alone. Every number in its sentences is read from a csv file or from the
provenance beside it, and a part of the page is there when its files are.
"""

from amc_study.report.gallery.page import PAGE, page
from amc_study.report.gallery.results import Results

__all__ = ["PAGE", "Results", "page"]
