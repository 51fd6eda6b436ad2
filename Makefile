# What one does with this repository. `make help` lists the targets; CONTRIBUTING.md says when to use which.
# Only Go, git, make and a C compiler (for the race detector) are needed; every other program is built from a pinned module.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X sealock.dev/sealock/internal/buildinfo.version=$(VERSION)
SEEDS   ?= ../shared/seeds
FUZZTIME ?= 30s

# Packages tested at a time. Each may run a control plane of its own, which two cores and 8 GB carry twice.
TEST_PARALLEL ?= 2

CONTROLLER_GEN := go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0
GOLANGCI_LINT  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK    := golang.org/x/vuln/cmd/govulncheck@v1.8.0

.PHONY: help build devcluster tools clock demo test adopt flux lint generate verify vulncheck bench fuzz seeds clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build bin/sealock, static
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sealock ./cmd/sealock

devcluster: ## build bin/devcluster: etcd, kube-apiserver, controller-manager, Vault and Git in one program
	@[ -x bin/devcluster ] || echo 'make: building the embedded control plane; from a cold cache this takes some ten minutes on two cores'
	cd e2e && go build -ldflags '-s -w' -o ../bin/devcluster ./devcluster

tools: ## build the real sops, kubeseal and age-keygen into bin/, as clients for tests
	cd e2e/tools && go build -o ../../bin/ tool

clock: build ## build bin/sealock-clock, for tests: the program with a wall clock that can be moved
	cd e2e && go run ./clock .. ../bin/sealock-clock

demo: build devcluster tools ## run the whole story on this machine and leave it running (ONCE=1: exit at its end)
	cd e2e && ONCE='$(ONCE)' go run ./demo

test: build devcluster tools clock ## run every test: units with the race detector, then the stories against real servers
	go test -race -p $(TEST_PARALLEL) -timeout 20m ./...
	cd e2e && go test -p 1 -timeout 20m ./...

adopt: build devcluster tools ## take over from the real kustomize-controller of Flux (its first build takes some four minutes on two cores)
	cd e2e/flux && go build -o ../../bin/ tool
	cd e2e && go test -count 1 -tags adopt ./adopt

FLUX := github.com/fluxcd/flux2/v2@v2.9.5
flux: build devcluster ## be a user of the real flux program (its build takes many minutes; not run yet, see e2e/fluxcli)
	@src=$$(cd e2e/tools && go mod download -json $(FLUX) | sed -n 's/^\t"Dir": "\(.*\)",*$$/\1/p'); [ -n "$$src" ]; \
	rm -rf bin/flux2; cp -r "$$src" bin/flux2; chmod -R u+w bin/flux2; mkdir -p bin/flux2/cmd/flux/manifests; \
	: >bin/flux2/cmd/flux/manifests/none.yaml  # its release embeds downloaded manifests here; only bootstrap and install need them
	cd bin/flux2 && GOFLAGS=-mod=mod go build -o ../flux ./cmd/flux
	cd e2e && go test -count 1 -tags flux ./fluxcli

lint: ## run go vet and golangci-lint, as .golangci.yml explains
	go vet ./...
	cd e2e && go vet ./...
	$(GOLANGCI_LINT) run ./...

generate: ## regenerate deep copies and CRDs
	$(CONTROLLER_GEN) object paths=./api/...
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:dir=config/crd
	$(CONTROLLER_GEN) crd paths=github.com/fluxcd/kustomize-controller/api/v1 output:crd:dir=config/crd
	$(CONTROLLER_GEN) crd paths=github.com/fluxcd/source-controller/api/v1 output:crd:dir=bin/source-crds
	cp bin/source-crds/source.toolkit.fluxcd.io_gitrepositories.yaml config/crd/  # the one kind of that module that we serve

verify: generate lint vulncheck ## check that generated files are current, lint, and look for known vulnerabilities
	git diff --exit-code -- api config/crd
	@new=$$(git ls-files --others --exclude-standard -- api config/crd); [ -z "$$new" ] || { echo "generated and not committed: $$new"; exit 1; }

vulncheck:
	@if ! GOBIN='$(CURDIR)/bin' go install $(GOVULNCHECK); then echo 'govulncheck: NOT RUN, it cannot be built here'; exit 0; fi; \
	code=0; out=$$(bin/govulncheck ./... 2>&1) || code=$$?; \
	if [ $$code -ne 0 ] && grep -q 'vuln\.go\.dev' <<<"$$out" && ! grep -q '^Vulnerability #' <<<"$$out"; then \
		echo 'govulncheck: NOT RUN, https://vuln.go.dev cannot be reached from here'; \
	else echo "$$out"; exit $$code; fi

bench: build devcluster tools ## print the figures of DESIGN.md section 7 (BENCH='--quick', BENCH='--only hundred')
	cd e2e && go run ./bench $(BENCH)

fuzz: ## run each fuzz target for FUZZTIME
	@for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

seeds: build devcluster ## apply the seed manifests in SEEDS to a real API server and say what became of each
	cd e2e && go run ./seeds '$(abspath $(SEEDS))'

clean: ## remove what was built
	rm -rf bin .demo coverage.out
