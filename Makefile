# make bench   installs into .venv on first use, then trains the four GPT sizes and prints their MFU
# make test    installs likewise, then runs the linter, the type checker and the tests
#
# Options of the benchmark go into ARGS: make bench ARGS="--sizes gpt-small --max-steps 20"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help bench test clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

bench: $(INSTALLED)
	@echo "== Benchmark: four GPT sizes on this machine, in ten minutes at most (--minutes)"
	@$(BIN)/python scripts/bench.py $(ARGS)

test: $(INSTALLED)
	@echo "== Lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== Types"
	@$(BIN)/mypy
	@echo "== Tests"
	@$(BIN)/python -m pytest $(ARGS)

# Made anew only when what is to be installed changes, so the second time needs neither time nor network.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "== Installing into .venv (once; the versions are those of constraints.txt)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=...")'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# timm asks for torchvision, whose published builds do not load beside a CPU build of torch and then break lightning;
	@# torchtitan asks for a good deal that its table of peaks does not need.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps timm torchtitan
	@touch $(INSTALLED)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
