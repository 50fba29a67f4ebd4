# `make help` lists the targets. ARGS="…" is passed on to the command behind up, dev, test, bench, soak, chaos and inspect.
.DEFAULT_GOAL := help
.PHONY: help packages up down status engine dev test test-engines check images logs logs-local env-debug inspect bench soak chaos conformance
MAKEFLAGS += --no-print-directory
export PATH := $(shell pwd)/node_modules/.bin:$(PATH)

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

packages:
	@scripts/install-packages.sh

up: ## set everything up and run the gateway in the foreground
	@exec scripts/up.sh $(ARGS)

down: packages ## stop the gateway of this directory and remove its containers
	@node scripts/down.ts

status: packages ## the servers of the running gateway and their states
	@node bin/mcp-gateway.js servers

engine: ## find a Docker Engine, or install and start one (Debian and Ubuntu, as root)
	@scripts/ensure-docker.sh

dev: packages ## run from source, started anew at each change, with debug logs
	@exec node --watch-path=src --watch-preserve-output src/main.ts start --log-level debug $(ARGS)

test: packages ## every check; installs what it needs; ends with "N passed, N failed"
	@scripts/test-tools.sh
	@scripts/test.sh $(ARGS)

test-engines: packages ## the container tests on this machine's Docker, the current one and Podman: ENGINES="docker moby podman"
	@scripts/test-engines.sh $(ENGINES) $(if $(ARGS),-- $(ARGS))

check: packages ## lint, format, types, layering, stale documents
	@npm run --silent check

images: ## build the images of the gateway and of the bundled servers
	@scripts/images.sh

logs: ## follow the gateway's container and the stderr of every server, with timestamps
	@node scripts/engine-api.mjs logs

logs-local: packages ## follow one server of the running gateway: make logs-local SERVER=context7
	@scripts/logs-local.sh "$(SERVER)"

env-debug: ## versions, the engine, and which variables of servers.yaml are set (never their values)
	@node scripts/env-debug.mjs

inspect: packages ## open MCP Inspector on the running gateway
	@exec inspector --transport http --server-url "http://127.0.0.1:$${GATEWAY_PORT:-8000}/mcp" $(ARGS)

bench: packages ## measure speed beside its floors; writes bench/results.md
	@npm run --silent bench -- $(ARGS)

soak: packages ## 1,000 clients, faults and restarts for 20 minutes: ARGS="--minutes 5" for less
	@npm run --silent soak -- $(ARGS)

chaos: packages ## drawn calls and faults against a model of what each client must see: ARGS="--schedules 950 --containers 50 --seed 7"
	@npm run --silent chaos -- $(ARGS)

conformance: packages ## the public conformance suite, directly and through the gateway; writes conformance/results.json
	@npm run --silent conformance
