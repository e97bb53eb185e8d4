# Every target makes .venv ready first (scripts/setup.sh); only Python 3.11, 3.12 or 3.13 is needed beforehand.
# ARGS goes to the command behind the target: make test ARGS="tests/tokens -x".
.DEFAULT_GOAL := help
.PHONY: help demo test lint format docs notebooks lock clean
ARGS ?=

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 20

demo:  ## simulated tissue, graph, training, niches; figures and a table in demo_out/
	@bash scripts/demo.sh $(ARGS)

test:  ## the tests, in two processes
	@bash scripts/test.sh $(ARGS)

lint:  ## ruff and mypy
	@bash scripts/lint.sh

format:  ## let ruff mend what it can
	@bash scripts/setup.sh dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs:  ## the documentation, into docs/_build/html
	@bash scripts/docs.sh $(ARGS)

notebooks:  ## execute the tutorials in place
	@bash scripts/notebooks.sh $(ARGS)

lock:  ## write the files of pinned versions anew (constraints*.txt)
	@bash scripts/lock.sh

clean:  ## remove what the other targets made
	rm -rf .venv demo_out docs/_build docs/generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
