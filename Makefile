# make demo   train on handwritten digits, private and securely aggregated
# make test   everything that must hold
# make test-flower   an app of Flower, simulated and deployed, in an environment of its own (Python 3.11)
# make test-ecosystem   Lightning and Hugging Face's Trainer, in an environment of its own
# make coverage   the tests of `make test` again, with the lines and branches of fedsec that they reach
# make soak   1,000 rounds with losses and messages that lie; kills by the hundred, disk faults at every call
# make bench  speed, as ratios to numpy and torch in the same run
# make sanitize   the core's tests under address and undefined-behaviour sanitizers
# make wheel  sdist and wheel, checked, and installed where there is no compiler
# make docs   the documents as a site, in build/site
# make lint   ruff, mypy, and the C files under every warning
# make type   mypy alone
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.stamp
CC     ?= cc
SHARED := -n 2 --dist loadfile
SITE   := "import sysconfig; print(sysconfig.get_path('purelib'))"
WARN   := -std=c11 -O3 -Wall -Wextra -Wconversion -Wshadow -Werror -fsyntax-only

export OMP_NUM_THREADS ?= 1
export PYTHONHASHSEED ?= 0

.PHONY: demo test coverage test-flower test-ecosystem soak bench sanitize wheel docs lint type clean
demo: $(STAMP)
	$(BIN)/fedsec demo $(ARGS)

# Two processes, each file in one of them; ARGS="-n 0" for one, in which a debugger works.
test: $(STAMP)
	$(BIN)/python -m pytest $(SHARED) $(ARGS)

coverage: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt pytest-cov
	$(BIN)/python -m pytest $(SHARED) --cov --cov-branch --cov-report=term-missing:skip-covered $(ARGS)

test-flower: build/flower/.stamp
	build/flower/bin/python -m pytest -m flower tests/flower $(ARGS)

test-ecosystem:
	test -x build/ecosystem/bin/python || $(PYTHON) -m venv build/ecosystem
	build/ecosystem/bin/python -m pip install --quiet -c constraints.txt -e '.[ecosystem,test]'
	build/ecosystem/bin/python -m pytest tests/ecosystem $(ARGS)

soak: $(STAMP)
	FEDSEC_LONG=1 $(BIN)/python -m pytest -s tests/protocol/test_secagg_soak.py tests/protocol/test_kills.py tests/protocol/test_disk_faults.py $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only $(ARGS)

sanitize:
	.ci/sanitize $(ARGS)

wheel:
	.ci/wheel

docs:
	test -x build/docs/bin/python || $(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install --quiet 'mkdocs-material>=9.5' 'mkdocstrings-python>=1.16'
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --quiet --strict

lint: type
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(CC) $(WARN) csrc/*.c

type: $(STAMP)
	$(BIN)/mypy

# Stale when what is installed or compiled has changed; Python files are used in place.
$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch,demo,plot,test,lint]'
	touch $@

# On top of .venv, which Flower's fifty packages stay out of; what .venv has is not installed again.
build/flower/.stamp: pyproject.toml constraints.txt | $(STAMP)
	$(BIN)/python -m venv --clear --without-pip build/flower
	echo "import site; site.addsitedir('$$($(BIN)/python -c $(SITE))')" > "$$(build/flower/bin/python -c $(SITE))/venv.pth"
	build/flower/bin/python -m pip install --quiet -c constraints.txt 'flwr[simulation]>=1.41'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info fedsec/_core*
