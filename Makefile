# The two commands: `make run` and `make test`. Both set up .venv themselves (scripts/setup).
#   make run ARGS='--listen 127.0.0.1:9999'   make test-kernel KERNEL=6.1   PYTHON=/path/to/python make test
.DEFAULT_GOAL := help
.PHONY: help run test test-kernel test-cluster bench lock clean
KERNEL ?=
SCENARIOS ?=
ARGS ?=

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

run: ## say what this machine allows, then start the agent; it prints where its metrics are
	@scripts/setup run
	@.venv/bin/oom-collector check --state-dir .state || true
	@exec .venv/bin/oom-collector run --state-dir .state $(ARGS)

test: ## the whole check: format, lint, types, import rules, tests
	@scripts/setup dev
	@scripts/check

test-kernel: ## the agent in a virtual machine on a real kernel; KERNEL=6.1 or all, SCENARIOS='burst node' for a few
	@scripts/setup dev
	@tests/kernel/run $(addprefix --scenario ,$(SCENARIOS)) $(KERNEL)

test-cluster: ## contract tests on the cluster of KUBECONFIG; with IMAGE=... the chart on it and a pod of each kind killed
	@[ -n "$$KUBECONFIG" ] || { echo "usage: KUBECONFIG=... [IMAGE=...] make test-cluster (tests/cluster/README.md)" >&2; exit 2; }
	@scripts/setup dev
	@.venv/bin/python -m pytest -v -m cluster -o faulthandler_timeout=1200 tests/kube tests/cluster $(ARGS)

bench: ## measure speed and memory on this machine
	@scripts/setup dev
	@bench/run $(ARGS)

lock: ## bring requirements/*.txt to the newest versions
	@scripts/lock

clean: ## remove all that these commands made
	rm -rf .venv .state .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info
	find collector tests bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
