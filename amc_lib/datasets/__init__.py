"""One module a data source; each gives `amc_lib.regions.Region` records."""
