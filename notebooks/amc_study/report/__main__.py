"""Every page that is made of figures/: `python -m amc_study.report`."""

from amc_study.report import pages, poster

if __name__ == "__main__":
    poster.main()
    pages.write_pages()
