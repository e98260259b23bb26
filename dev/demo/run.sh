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
stop() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        # SIGKILL for a daemon that does not end within five seconds.
        for _ in $(seq 50); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap stop EXIT
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
address=unix:$folder/kvstored.sock
if [ "$transport" = tcp ]; then
    address=tcp:$($python -c 'import json, sys; print(json.load(open(sys.argv[1]))["tcp"])' \
        "$folder/ready.json")
fi

run_engine() {
    PYTHONPATH=clients/python $python examples/llamacpp/engine.py --address "$address" \
        --mode "$1" --prompt-tokens "$prompt_token_count" --generate 16 --json >"$folder/$1.json" ||
        fail "the $1 run failed; its message is above"
}

echo "demo: llama.cpp with SmolLM2-135M, $prompt_token_count tokens, one thread, over $transport"
echo "demo: cold run (computes the prompt, about 10 s a thread)"
run_engine cold
echo "demo: warm run, in a new process"
run_engine warm
$python dev/demo/compare.py "$folder/cold.json" "$folder/warm.json"
