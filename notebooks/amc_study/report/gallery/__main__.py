"""`python -m amc_study.report.gallery`: write figures/README.md."""

from amc_lib.files import write_bytes
from amc_study.figures import FOLDER
from amc_study.report.gallery.page import PAGE, page

write_bytes(FOLDER / PAGE, page(FOLDER).encode())
print(f"Written: {FOLDER / PAGE}")
