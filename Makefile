# What people do with this tree. `make` or `make help` lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test system-test test-jetson lint audit fuzz soak bench build clean-demo soak-kill test-gpu train-setup train-smoke train-test

VIDEO ?=
RTSP ?=
CAMERA ?=
SECONDS_MAX ?=

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what building, testing and the demo need (apt, pip); idempotent
	@deploy/dev/setup.sh

demo: setup ## watch real CCTV being analysed live: RTSP camera, broker, incident, clip, alert (VIDEO=my.mp4, RTSP=rtsp://... or CAMERA=/dev/video0; SECONDS_MAX=60 ends it)
	@cargo build --bin vedette
	@VIDEO="$(VIDEO)" RTSP="$(RTSP)" CAMERA="$(CAMERA)" SECONDS_MAX="$(SECONDS_MAX)" deploy/demo/demo.sh

test: setup ## all tests: unit, property, and integration against a real Mosquitto, a real RTSP server and others' clients
	@deploy/dev/python.sh
	@tests/tensorrt/doubles.sh
	@deploy/dev/nextest.sh run --no-fail-fast
	cargo test --doc --quiet
	@tests/tensorrt/check.sh
	@tests/tensorrt/rtx.sh || [ $$? -eq 77 ]
	@$(MAKE) --no-print-directory train-smoke

KILLS ?= 1000

soak-kill: setup ## kill -9 at random moments, KILLS times (1,000; about an hour): nothing stored may be missing, open or broken
	@VEDETTE_KILLS="$(KILLS)" deploy/dev/nextest.sh run --test all --no-capture -E 'test(kills_at_random_moments) + test(broker_kills)'

system-test: setup ## a virtual machine with a V4L2 camera (vivid) and systemd, emulated: cameras, controls, replug, clips; ten minutes and more
	@cargo build --quiet --bin vedette || cargo build --bin vedette
	@python3 tests/vm/system_test.py

test-jetson: setup ## what of Vedette this machine's hardware carries, in one report (.cache/jetson/report.md); on a PC it says so
	@cargo build --quiet --bin vedette || cargo build --bin vedette
	@python3 tests/jetson/report.py

test-gpu: ## for who has a Jetson or another machine with TensorRT: shim, contract suite, default model built, proven, measured, in one report; without TensorRT it says so (77)
	@tests/tensorrt/gpu.sh

lint: setup ## formatting, clippy with warnings denied on the feature sets that ship, licences and sources
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	cargo clippy --no-default-features --features agent --lib --bins --quiet -- -D warnings
	cargo clippy --no-default-features --lib --quiet -- -D warnings
	@deploy/dev/deny.sh

audit: ## known vulnerabilities in dependencies (needs the advisory database: network)
	@deploy/dev/deny.sh advisories

build: setup ## the release binary, target/release/vedette
	cargo build --release --bin vedette

fuzz: ## one fuzz target for a while: TARGET=config, manifest, command, mp4, ring, incident or store; SECONDS_MAX=60
	@deploy/dev/fuzz.sh "$(TARGET)" "$(or $(SECONDS_MAX),60)"

soak: setup ## four cameras and random faults for HOURS (1), and an account of what was lost: .cache/soak/report.md
	@tests/soak/run.sh --hours "$(or $(HOURS),1)"

bench: build ## measure what the README claims; writes benches/RESULTS.md with this machine's name
	@benches/run.sh

# The training kit (engines/train). MODEL: the model directory whose encoder and pixels the smoke test takes.
MODEL ?= engines/activity-v1
TRAIN := PYTHONPATH=engines/train .cache/train/venv/bin/python

train-setup: ## the training kit's own Python environment with PyTorch, in .cache/train/venv (some 6 GB); idempotent
	@engines/train/setup.sh full

train-smoke: ## the training kit without PyTorch: ten classes of generated clips, trained, exported, judged by the agent
	@cargo build --quiet --bin vedette || cargo build --bin vedette
	@engines/train/smoke.sh "$${CARGO_TARGET_DIR:-target}/debug/vedette" $(MODEL)

train-test: train-setup ## the training kit's tests, and its smoke run with PyTorch
	@cargo build --quiet --bin vedette || cargo build --bin vedette
	$(TRAIN) -m pytest -q engines/train/tests -p no:cacheprovider
	$(TRAIN) -m vedette_train smoke --full --vedette "$${CARGO_TARGET_DIR:-target}/debug/vedette" --model $(MODEL)
