# SPDX-License-Identifier: MIT
# make demo    bring up a host and a spawned kernel, and check what they show
# make test    the whole test suite
# make selfcheck  build the reference with one seeded fault after another: does the suite notice? (hours)
# make check   formatting, lint, types
# make setup   what the others need: Debian packages and .venv (done by them when missing)
# make clean   remove .venv and what tools left in the checkout; caches of built kernels stay

PYTHON ?= /usr/bin/python3
VENV := .venv
STAMP := $(VENV)/.ready
ARGS ?=
# Processes that share the tests: one more than there are cores, since a test waits now and then.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))

.PHONY: demo test selfcheck check setup clean

demo: setup
	@$(VENV)/bin/mkh demo $(ARGS)

test: setup
	@$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal $(ARGS)

selfcheck: setup
	@$(VENV)/bin/mkh selfcheck $(ARGS)

# Every tool runs, whatever the one before said, and each keeps its own exit status.
check: setup
	@failed=; \
	run() { "$$@"; status=$$?; echo "$$*: exit status $$status"; [ $$status -eq 0 ] || failed=1; }; \
	run $(VENV)/bin/ruff format --check .; \
	run $(VENV)/bin/ruff check .; \
	run $(VENV)/bin/mypy; \
	[ -z "$$failed" ]

setup: $(STAMP)
	@:

$(STAMP): pyproject.toml harness/setup.sh harness/needs.txt
	@PYTHON=$(PYTHON) sh harness/setup.sh $(VENV)
	@touch $@

clean:
	rm -rf $(VENV) *.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find harness tests -name __pycache__ -type d -prune -exec rm -rf {} +
