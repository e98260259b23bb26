#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: dev/demo/run.sh      KVSTORED=path of kvstored, default .build/release/kvstored
#                             PROMPT_TOKENS=2048  TRANSPORT=unix|tcp
#
# Starts kvstored, runs a real engine on a prompt cold, then in a new process warm, and tells both
# times to first token. Fails if the warm run's output differs from the engine's own reuse of its
# memory, or if it is not faster. The last line is for programs.
set -euo pipefail
cd "$(dirname "$0")/../.."

kvstored=${KVSTORED:-.build/release/kvstored}
prompt_token_count=${PROMPT_TOKENS:-2048}
transport=${TRANSPORT:-unix}
python=.cache/demo-venv/bin/python3

fail() { echo "demo: $*" >&2; exit 1; }

[ -x "$kvstored" ] || fail "no $kvstored; build it with: swift build -c release --product kvstored"
dev/demo/setup

folder=$(mktemp -d)
daemon=
stop_daemon() {
    [ -n "$daemon" ] || return 0
    local process=$daemon status=0
    daemon=
    kill "$process" 2>/dev/null || true
    # SIGKILL for a daemon that does not end within five seconds.
    for _ in $(seq 50); do kill -0 "$process" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || status=$?
    [ "$status" = 0 ] || echo "demo: warning: kvstored ended with status $status" >&2
}
clean_up() { stop_daemon; rm -rf "$folder"; }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- How the daemon is started: the one place that knows its flags. ----
"$kvstored" \
    --listen-unix-socket "$folder/kvstored.sock" \
    --listen-tcp 127.0.0.1:0 \
    --memory-budget 512MiB \
    --ready-file "$folder/ready.json" \
    --log-format text --log-level warning &
daemon=$!

for attempt in $(seq 100); do
    [ -s "$folder/ready.json" ] && break
    kill -0 "$daemon" 2>/dev/null || fail "kvstored ended while starting; its message is above"
    [ "$attempt" -lt 100 ] || fail "kvstored was not ready within 10 s"
    sleep 0.1
done
address=$($python -c 'import json, sys
addresses = json.load(open(sys.argv[1]))["addresses"]
print(next(address for address in addresses if address.startswith(sys.argv[2] + ":")))' \
    "$folder/ready.json" "$transport")

run_engine() {
    PYTHONPATH=clients/python $python examples/llamacpp/engine.py --address "$address" \
        --mode "$1" --prompt-tokens "$prompt_token_count" --generate 16 --json >"$folder/$1.json" ||
        fail "the $1 run failed; its message is above"
}

echo "demo: llama.cpp with SmolLM2-135M, $prompt_token_count tokens, one thread, over $transport"
echo "demo: cold run (computes the prompt, about 10 s of processor time)"
run_engine cold
echo "demo: warm run, in a new process"
run_engine warm
stop_daemon
$python dev/demo/compare.py "$folder/cold.json" "$folder/warm.json"
