"""figures/README.md, a page that shows and explains every figure and table: `python -m amc_lib.gallery` renews it.

The page is made of the files under figures/ alone. Every number in its sentences is read from a csv file or from the
provenance beside it, and a part of the page is there when its files are.
"""

from amc_lib.gallery.page import PAGE, page
from amc_lib.gallery.results import Results

__all__ = ["PAGE", "Results", "page"]
