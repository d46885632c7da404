# Every verb of the project. `make help` lists them; each installs what it lacks and is safe to repeat.
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
export PATH := /usr/local/go/bin:$(HOME)/.local/bin:$(PATH)
export PYTHONPATH := e2e
RUN := .venv/bin/
# Two processes share the tests, a file at a time, in the order of tests/conftest.py: much of a test is waiting for processes that it started.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
# The C kernels: built with the environment.
KERNELS := runtime/build_kernels.py $(wildcard runtime/jitney_runtime/kernels/*.[ch])

.DEFAULT_GOAL := help
# What comes first is asked first: `make -j` must not download beside the question whether it may.
.NOTPARALLEL:
.PHONY: go control-plane help setup check fmt test test-long test-gpu model serve docs bench bench-quick bench-gpu bench-status bench-gateway demo-local record-xinference binaries screenshots

help: ## list the verbs
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

# uv makes the environment exactly as uv.lock says; the stamp keeps a second call instant.
.venv/ready: pyproject.toml uv.lock $(KERNELS)
	@exec 1>&2
	command -v uv > /dev/null || bash e2e/install-uv.sh
	echo "setting up the Python environment (torch is 5.5 GB, 2 to 3 minutes the first time)"
	uv sync --frozen --extra dev
	touch $@

setup: .venv/ready ## make the Python environment in .venv

check: setup ## lint, types and import arrows; never edits
	@$(RUN)ruff format --check .
	$(RUN)ruff check .
	$(RUN)mypy
	$(RUN)lint-imports

fmt: setup ## format and fix what can be fixed
	@$(RUN)ruff format .
	$(RUN)ruff check --fix .

test: go setup control-plane ## unit, contract and integration tests
	@$(RUN)pytest -m "not long" $(SIDE_BY_SIDE)

test-long: go setup control-plane ## the tests, with their longer forms, and what they cover
	@$(RUN)pytest $(SIDE_BY_SIDE) --cov --cov-report=term

# A missing Go is said before 5.5 GB are downloaded, and the API server is built where its progress can be seen.
go:
	@python3 -m cluster.machine go

control-plane:
	@python3 e2e/cluster/binaries.py kubernetes helm kstatus argohealth

test-gpu: setup ## the tests that need a CUDA device, on a machine that has one
	@$(RUN)pytest -m gpu tests/runtime

model: setup ## fetch and convert the test model if need be; prints only its folder
	@$(RUN)python e2e/test_model.py

serve: setup ## serve the test model on http://127.0.0.1:8000/v1
	@$(RUN)jitney-runtime --model "$$($(RUN)python e2e/test_model.py)" --served-model-name smollm2

docs: setup ## make the pages that come from the code
	@$(RUN)python -m jitney_operator.reasons > docs/status.md

bench: setup ## the runtime beside vLLM, llama.cpp, transformers serve and Xinference, row by row, into bench/RESULTS.md (2 hours)
	@$(RUN)python -m bench.engine

bench-quick: setup ## the same for 16 chats and for one, beside llama.cpp alone, in a few minutes; writes nothing
	@$(RUN)python -m bench.engine --quick

bench-gpu: setup ## the runtime on this machine's GPU beside transformers serve, and vLLM where it is installed, into bench/RESULTS-gpu.md
	@$(RUN)python -m bench.engine.gpu

bench-status: prerequisites setup ## how soon the resource says what Kubernetes knows, over 20 failures
	@$(RUN)python bench/status.py

bench-gateway: go setup control-plane ## the front door against the runtimes behind it, into bench/RESULTS-gateway.md: what it adds, costs, holds and where it leads
	@$(RUN)python bench/gateway.py

# What only a person can give is missing in one sentence, before 5.5 GB are downloaded.
demo-local: ## the same job on this machine, without root, Go or a cluster: a launch, 16 chats at once
	@command -v python3 > /dev/null || { echo "error: Python 3.11 or newer is needed and there is no python3: install it" >&2; exit 1; }
	python3 e2e/needs.py
	$(MAKE) -s --no-print-directory setup
	$(RUN)python e2e/demo_local.py

record-xinference: setup ## write down anew what Xinference answers, which tests/gateway/test_recorded.py compares with ours
	@PYTHONPATH=e2e:tests $(RUN)python tests/recordings/record.py

screenshots: setup ## take the README's pictures of the front door's page anew (docs/images)
	@mkdir -p docs/images
	JITNEY_SCREENSHOTS="$$PWD/docs/images" $(RUN)pytest -q tests/gateway/test_page.py -k screenshots

binaries: ## build etcd, Kubernetes, helm, CoreDNS and what else the cluster suite needs from their Go modules (8 minutes the first time)
	@python3 e2e/cluster/binaries.py

include e2e/targets.mk
