"""`python -m amc_lib.gallery`: write figures/README.md."""

from amc_lib.figures import FOLDER
from amc_lib.files import write_bytes
from amc_lib.gallery.page import PAGE, page

write_bytes(FOLDER / PAGE, page(FOLDER).encode())
print(f"Written: {FOLDER / PAGE}")
