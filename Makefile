# `make demo` and `make test` do everything on a fresh machine; scripts/setup installs what is missing.
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: demo test test-cluster test-nodes test-servers test-browser test-wheel test-pythons test-oldest coverage bench bench-check
.PHONY: image reference lint setup clean

demo: setup
	@$(BIN)/troth demo

# Most tests wait for something else: hence more workers than a small machine has cores. Each module's
# tests stay together, in the order of tests/conftest.py.
test: setup
	@$(BIN)/pytest --numprocesses=4 --dist=loadscope --no-loadscope-reorder

# Needs root. The first run builds Kubernetes and Helm with the Go toolchain: some minutes, once.
test-cluster: setup
	@scripts/etcd >/dev/null
	@scripts/kubernetes >/dev/null
	@scripts/helm >/dev/null
	@scripts/containerd >/dev/null
	@scripts/cni >/dev/null
	@$(BIN)/pytest -m cluster tests/kubernetes

# Needs root, and cgroup hierarchies of version 1: two nodes with upstream's kubelet, containerd and
# runc, on which troth is installed from its image.
test-nodes: setup
	@scripts/etcd >/dev/null
	@scripts/kubernetes >/dev/null
	@scripts/helm >/dev/null
	@scripts/containerd >/dev/null
	@scripts/containerd-v2 >/dev/null
	@scripts/cni >/dev/null
	@$(BIN)/python -c 'from tests.deploy import image; image.build()'
	@$(BIN)/pytest -m nodes tests/nodes

# Needs root. The first run unpacks Debian's packages of the servers: 220 MB to fetch, once.
test-servers: setup
	@scripts/servers >/dev/null
	@$(BIN)/pytest -m servers tests/servers

# `troth ui` in Chromium, which is installed as Debian's package where there is none.
test-browser: setup
	@scripts/chromium >/dev/null
	@$(BIN)/pytest -m browser tests/browser

# troth's image as an OCI archive, made as the Dockerfile says without a container engine. Needs
# Debian's package tools.
image: setup
	@$(BIN)/python -m tests.deploy.image

# docs/commands.md, and manual pages in dist/man, from the commands' own help.
reference: setup
	@$(BIN)/python -m tests.docs.commands
	@$(BIN)/python -m tests.docs.commands dist/man

# The wheel, in an environment of its own, gives the demo.
test-wheel: setup
	@scripts/try-wheel

# The tests that need neither a mesh nor namespaces, on other Pythons and with the oldest dependencies.
test-pythons: setup
	@scripts/other-environments pythons

test-oldest: setup
	@scripts/other-environments oldest

# Branch coverage, of what the tests run in their own process: not of meshes, which are others.
coverage: setup
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -q -p no:cacheprovider --ignore=tests/e2e
	@$(BIN)/coverage report --skip-covered

# Need root, and a machine that does nothing else. BENCH names some of them: make bench BENCH=signing
bench: setup
	@scripts/bench-needs
	@$(BIN)/python -m benchmarks $(BENCH)

bench-check: setup
	@scripts/bench-needs
	@$(BIN)/python -m benchmarks --check $(BENCH)

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

setup:
	@scripts/setup

clean:
	rm -rf .venv .venvs
