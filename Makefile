# Everything a person does with this tree. `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help test lint

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

test: ## build and run all tests
	cargo test --workspace

lint: ## formatting, clippy and documentation, warnings denied
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
