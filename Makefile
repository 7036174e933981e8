# Clarion. The two commands to begin with: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false

PROGRAMS := clarion-controller clarion-agent clarion-cni kubectl-clarion
GOBUILD  := go build -trimpath -ldflags "-s -w"

.PHONY: help
help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

include e2e/lab.mk

## ---- build

.PHONY: build
build: $(PROGRAMS:%=bin/%) ## build the programs into bin/

.PHONY: $(PROGRAMS:%=bin/%)
$(PROGRAMS:%=bin/%): bin/%:
	@$(GOBUILD) -o $@ ./cmd/$*

.PHONY: images
images: build ## write the container images into bin/images/
	@go run ./internal/image/mkimage -o bin/images/clarion-controller.tar -tag clarion.dev/clarion-controller:dev \
	  -entrypoint /clarion-controller -user 65532:65532 bin/clarion-controller=/clarion-controller
	@go run ./internal/image/mkimage -o bin/images/clarion-agent.tar -tag clarion.dev/clarion-agent:dev \
	  -entrypoint /clarion-agent bin/clarion-agent=/clarion-agent bin/clarion-cni=/clarion-cni
	@sha256sum bin/images/*.tar

.PHONY: manifests
manifests: ## render the manifests in deploy/ from the chart
	@tools/manifests

## ---- show

.PHONY: demo
demo: ## the main job in a real cluster on this machine: addresses, answers, a failover
	@LAB_PROFILE=$(or $(LAB_PROFILE),lb) $(MAKE) --no-print-directory lab-up
	@cd e2e && go run ./cmd/demo -lab ../.lab

## ---- checks

.PHONY: test-tools
test-tools:
	@tools/need arping ndisc6 tcpdump nft:nftables conntrack ip:iproute2

.PHONY: test
test: test-tools ## run all unit and kernel tests
	@{ go test -json ./... ; cd tools && go test -json ./... ; cd ../e2e && go test -json ./... ; } 2>&1 | go run -C tools ./testsum

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, rendered files are fresh
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt wants to change: $$unformatted"; exit 1; }
	@go vet ./... && (cd tools && go vet ./...) && (cd e2e && go vet ./...)
	@go tool -modfile=tools/go.mod staticcheck ./...
	@tools/manifests check
	@echo "lint: ok"

## ---- upstream's suites, against the lab that is up: a summary, and .bench/NAME.json

.PHONY: conformance
conformance: ## upstream's 47 network conformance specs; the lab wants LAB_PROFILE=full
	@tools/need debootstrap
	@cd e2e && go run ./cmd/conformance

## ---- benchmarks: a table, and .bench/NAME.json

.PHONY: bench-failover
bench-failover: ## how long a client waits when a node dies; BENCH_TRIALS=30, BENCH_CASES=power-off,…
	@$(MAKE) --no-print-directory lab-up
	@cd e2e && go run ./cmd/bench-failover

## ---- later

.PHONY: conformance-lb test-kernels bench-proxy bench-podnet bench-alloc bench-datapath
conformance-lb test-kernels bench-proxy bench-podnet bench-alloc bench-datapath:
	@echo "make $@ is not built yet; CHANGELOG.md says what is." >&2; exit 1
