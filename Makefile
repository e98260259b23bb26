# SPDX-License-Identifier: Apache-2.0
#
# A menu: each line calls one script, which says what it does and takes arguments.

help:  ## Show this menu
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 20

setup:  ## Install what the build and the tests need
	dev/setup

test: setup  ## Run everything that CI runs
	dev/check

test-lmcache: setup  ## Run the real LMCache, its tests and its benchmark against the daemon
	swift build -c release --product kvstored
	dev/build-libkvstore
	dev/test-lmcache

demo: setup  ## Run a real engine cold and warm against the daemon
	swift build -c release --product kvstored
	dev/build-libkvstore
	dev/demo/run.sh

bench:  ## Compare with a blocking C server, memcached and Redis
	dev/setup --bench
	swift build -c release --product kvstored
	dev/bench

bench-redis:  ## Compare the RESP listener with Redis
	dev/setup --bench
	swift build -c release --product kvstored
	dev/bench-redis

bench-ssd:  ## Compare the SSD tier with fio
	dev/setup --bench
	swift build -c release --product kvstored
	dev/bench-ssd

bench-ssd-recovery:  ## Time starts on a terabyte of chunks
	dev/setup --bench
	swift build -c release --product kvstored
	dev/bench-ssd --recovery

bench-codec:  ## Compare the codec's kernels with memcpy, zstd and LZ4
	dev/setup --bench
	dev/bench-codec

bench-lmcache:  ## Compare with Redis behind LMCache, by LMCache's own benchmark
	dev/setup --bench
	swift build -c release --product kvstored
	dev/build-libkvstore
	dev/bench-lmcache

eval-codec:  ## Judge the codec by a model's answers (MODEL=smollm2, TEXT=passages.jsonl)
	swift build -c release --product kvstored
	dev/eval-codec $(or $(MODEL),smollm2) $(TEXT)

simulate:  ## Crash a simulated node under SEEDS=10000 seeds
	dev/simulate $(SEEDS)

fuzz:  ## Fuzz every decoder for ten minutes
	Fuzz/run --seconds 600

crash-test: setup  ## Kill the daemon RUNS times (1000) under load, compare what it kept (SEED)
	swift build -c release --product kvstored
	dev/crash-test --runs $(or $(RUNS),1000) $(if $(SEED),--seed $(SEED))

format:  ## Format all Swift files
	dev/format

generate:  ## Rewrite the generated documents
	dev/generate

.PHONY: help setup test test-lmcache demo bench bench-redis bench-ssd bench-ssd-recovery \
	bench-codec bench-lmcache eval-codec simulate fuzz crash-test format generate
