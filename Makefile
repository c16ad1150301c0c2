# `make demo` and `make test` do everything on a fresh machine; scripts/setup installs what is missing.
SHELL := /bin/bash
BIN := .venv/bin

.PHONY: demo test lint setup clean

demo: setup
	@$(BIN)/troth demo

test: setup
	@$(BIN)/pytest

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

setup:
	@scripts/setup

clean:
	rm -rf .venv
