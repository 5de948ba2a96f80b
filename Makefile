# Two commands do everything: `make demo` and `make test`. Each sets up .venv by itself.
# For a CPU-only PyTorch from its own index: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test format docs study-check clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/lift run gpt2_wikitext2 --preset refit --refit-epochs 4 --refit-beside --out runs/demo

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest -n 2

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

study-check: $(READY)
	printf '%s\n' language articles unread small ablations | xargs -P 2 -I {} sh -c \
	  'shown=$$($(BIN)/lift study --check docs/results/{}.json --within 7 2>&1); code=$$?; echo "$$shown"; exit $$code'

docs: $(READY)
	$(BIN)/mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "LiFT needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python cannot make environments: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt 'setuptools>=77'
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
