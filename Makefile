# `make` alone lists the targets. Nothing but Go, make and, on Debian and Ubuntu,
# apt need be there before: the rest is installed or built by the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
# The version is that of `git describe`, so a build needs no more of git than this.
export GOFLAGS ?= -buildvcs=false
CACHE    := $(CURDIR)/.cache
BIN      := bin/catena
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X main.version=$(VERSION)
PKGS     ?= ./...
# The most one package may take; e2e is the longest.
TIMEOUT  ?= 14m
FUZZTIME ?= 20s

# Runs a command with one private Postgres and one private Redis, whose
# addresses it finds in CATENA_TEST_POSTGRES_URL and CATENA_TEST_REDIS_URL.
WITH_SERVERS := $(GO) run ./devservers/servertest/cmd/testservers --

GOLANGCI_VERSION    := v2.15.0
GOVULNCHECK_VERSION := v1.1.4
GOLANGCI    := $(CACHE)/bin/golangci-lint-$(GOLANGCI_VERSION)
GOVULNCHECK := $(CACHE)/bin/govulncheck-$(GOVULNCHECK_VERSION)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: servers
servers: ## install postgres and redis-server where apt can
	@.ci/servers

.PHONY: browser
browser: ## install chromium where apt can, for the test of the dashboard
	@.ci/browser

.PHONY: dev
dev: ## start everything on this machine, with the examples
	@.ci/dev-free
	@$(MAKE) --no-print-directory servers build
	exec $(BIN) dev --examples examples

.PHONY: build
# Shares the build cache with the tests; the static build for release is in the Dockerfile.
build: ## build bin/catena
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/catena

.PHONY: test
test: servers browser ## all tests against real servers, with the race detector
	CGO_ENABLED=1 $(WITH_SERVERS) $(GO) test -race -count=1 -timeout $(TIMEOUT) $(PKGS)

.PHONY: faults
faults: servers ## the long end-to-end test: 100,000 runs under dozens of faults
	CATENA_TEST_FAULTS=long $(WITH_SERVERS) $(GO) test -count=1 -timeout 90m -v -run 'Faults|TwoMasters|PlannedRestarts' ./e2e

DURATION ?= 30m

.PHONY: soak
soak: servers ## half of the maximum load for DURATION (30m): does anything grow? And an idle master
	CATENA_TEST_SOAK=$(DURATION) $(WITH_SERVERS) $(GO) test -count=1 -timeout 4h -v -run 'TestSoak|TestIdle' ./e2e

.PHONY: upgrade
upgrade: servers ## from the version before the newest migration to this one and back, under load
	CATENA_TEST_PREVIOUS=$$(.ci/previous) $(WITH_SERVERS) $(GO) test -count=1 -v -run Upgrade ./e2e

.PHONY: fuzz
fuzz: servers ## each fuzz target for FUZZTIME (20s)
	FUZZTIME=$(FUZZTIME) $(WITH_SERVERS) .ci/fuzz

.PHONY: bench
bench: servers build ## Catena beside its peers, in one run
	$(WITH_SERVERS) $(GO) -C bench run ./cmd/bench $(BENCHFLAGS)

.PHONY: generate
generate: ## write the generated files again
	$(GO) generate $(PKGS)

.PHONY: dashboard
dashboard: ## build dashboard/dist from dashboard/web (needs Node 20.19 or newer)
	cd dashboard/web && npm ci --no-audit --no-fund && npm run build

.PHONY: check
check: check-format check-lint check-layers check-generated check-dashboard check-cross check-bench check-vulnerabilities ## everything that finds a defect without running the product

.PHONY: check-format
check-format:
	@files=$$(git ls-files -co --exclude-standard '*.go' | while read -r f; do [ -e "$$f" ] && echo "$$f"; done | xargs gofmt -l); \
	if [ -n "$$files" ]; then echo "not formatted (gofmt -w them):" $$files; exit 1; fi; echo "format: ok"

.PHONY: check-lint
check-lint: $(GOLANGCI)
	$(GO) vet $(PKGS)
	$(GOLANGCI) run $(PKGS)

.PHONY: check-layers
check-layers:
	$(GO) test -count=1 -run '^Test(Layers|Dockerfile|Scripts)' ./e2e

.PHONY: check-generated
check-generated:
	@sum() { git ls-files -co --exclude-standard -z | xargs -0 sha256sum 2>/dev/null; }; \
	before=$$(sum); $(GO) generate $(PKGS); after=$$(sum); \
	if [ "$$before" != "$$after" ]; then echo "generated files were out of date; commit what changed:"; \
	diff <(echo "$$before") <(echo "$$after") | awk '/^>/{print "  " $$3}'; exit 1; fi; echo "generated files: up to date"

.PHONY: check-dashboard
check-dashboard:
	@.ci/check-dashboard

.PHONY: check-cross
check-cross:
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/catena
	CGO_ENABLED=0 GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/catena

.PHONY: check-bench
check-bench:
	$(GO) -C bench vet ./...
	$(GO) -C bench test -count=1 ./...

# The tool ends with 3 when it found something; any other failure means that it or
# its database could not be had.
.PHONY: check-vulnerabilities
check-vulnerabilities:
	@if [ ! -x $(GOVULNCHECK) ] && ! .ci/install-tool $(GOVULNCHECK) golang.org/x/vuln/cmd/govulncheck $(GOVULNCHECK_VERSION); then \
	echo "govulncheck: SKIPPED, it cannot be built here"; exit 0; fi; \
	if out=$$($(GOVULNCHECK) $(PKGS) 2>&1); then echo "$$out"; else code=$$?; \
	if [ $$code = 3 ]; then echo "$$out"; exit 1; fi; \
	echo "govulncheck: SKIPPED, it cannot work here: $$(echo "$$out" | tail -n 1)"; fi

$(GOLANGCI):
	.ci/install-tool $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint $(GOLANGCI_VERSION)

.PHONY: clean
clean: ## remove what was built (keeps .catena, the data of `make dev`)
	rm -rf bin bench/bin .cache
	$(GO) clean -testcache
