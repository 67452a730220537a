# What people do with this tree. `make` or `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint audit bench build clean-demo

VIDEO ?=
RTSP ?=
SECONDS_MAX ?=

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what building, testing and the demo need (apt, pip); idempotent
	@deploy/dev/setup.sh

demo: setup ## watch real CCTV being analysed live: RTSP camera, broker, incident, clip, alert (VIDEO=my.mp4 or RTSP=rtsp://...)
	@cargo build --bin vedette
	@VIDEO="$(VIDEO)" RTSP="$(RTSP)" SECONDS_MAX="$(SECONDS_MAX)" deploy/demo/demo.sh

test: setup ## all tests: unit, property, and integration against a real Mosquitto and a real RTSP server
	@deploy/dev/nextest.sh run --no-fail-fast
	cargo test --doc --quiet

lint: setup ## formatting, clippy with warnings denied on the feature sets that ship, licences and sources
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	cargo clippy --no-default-features --lib --quiet -- -D warnings
	@deploy/dev/deny.sh

audit: ## known vulnerabilities in dependencies (needs the advisory database: network)
	@deploy/dev/deny.sh advisories

build: setup ## the release binary, target/release/vedette
	cargo build --release --bin vedette

bench: build ## measure what the README claims; writes benches/RESULTS.md with this machine's name
	@benches/run.sh
