"""Every page that is made of figures/: `python -m amc_study.report`."""

from amc_lib.files import write_bytes
from amc_study.figures import FOLDER
from amc_study.report import gallery, poster, readme

if __name__ == "__main__":
    readme.main()
    poster.main()
    write_bytes(FOLDER / gallery.PAGE, gallery.page(FOLDER).encode())
