# `make demo` and `make test` do everything on a fresh machine; scripts/setup installs what is missing.
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: demo test test-cluster test-nodes test-servers test-browser test-wheel test-pythons test-oldest coverage bench bench-check
.PHONY: image reference lint setup clean

demo: setup
	@$(BIN)/troth demo

# Most tests wait rather than compute: hence more workers than a small machine has cores. Each
# module's tests stay together, in the order of tests/conftest.py.
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

# Needs root and cgroup v1: two nodes with upstream's kubelet, containerd and runc, where troth is
# installed from its image.
test-nodes: setup
	@scripts/etcd >/dev/null
	@scripts/kubernetes >/dev/null
	@scripts/helm >/dev/null
	@scripts/containerd >/dev/null
	@scripts/containerd-v2 >/dev/null
	@scripts/cni >/dev/null
	@$(BIN)/python -c 'from tests.deploy import image; image.build()'
	@$(BIN)/pytest -m nodes tests/nodes

# Needs root. The first run downloads and unpacks Debian's packages of the servers: 220 MB, once.
test-servers: setup
	@scripts/servers >/dev/null
	@$(BIN)/pytest -m servers tests/servers

# `troth ui` in Chromium, which is installed as Debian's package where there is none.
test-browser: setup
	@scripts/chromium >/dev/null
	@$(BIN)/pytest -m browser tests/browser

# troth's image as an OCI archive, built by the Dockerfile's steps without a container engine. Needs
# Debian's package tools.
image: setup
	@$(BIN)/python -m tests.deploy.image

# docs/commands.md, and manual pages in dist/man, from the commands' own help.
reference: setup
	@$(BIN)/python -m tests.docs.commands
	@$(BIN)/python -m tests.docs.commands dist/man

# Runs the demo from the wheel, in a separate environment.
test-wheel: setup
	@scripts/try-wheel

# The tests that need neither a mesh nor namespaces, on other Pythons and with the oldest dependencies.
test-pythons: setup
	@scripts/other-environments pythons

test-oldest: setup
	@scripts/other-environments oldest

# Branch coverage of the code in the tests' own process, not in meshes, which are other processes.
coverage: setup
	@rm -f .coverage .coverage.*
	@$(BIN)/coverage run -m pytest -q -p no:cacheprovider --ignore=tests/e2e
	@$(BIN)/coverage report --skip-covered

# Need root and an otherwise idle machine. BENCH selects some: make bench BENCH=signing
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
