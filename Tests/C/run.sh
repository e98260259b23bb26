#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds libkvstore and tests it: with the sanitizers, against the stub server, and against a daemon
# with an SSD tier when KVSTORED names its executable; and with libkvstore-codec when CODEC_FOLDER
# names the folder that it is in. Also compiles and runs the example by pkg-config.
#
# usage: Tests/C/run.sh [PART OF A CASE'S NAME]
#        CC=gcc|clang   KVSTORED=/path   CODEC_FOLDER=/path   VALGRIND=1
set -euo pipefail
cd "$(dirname "$0")/../.."

compiler=${CC:-gcc}
work=$(mktemp -d)
daemon=
finish() {
    if [ -n "$daemon" ]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT

kind=asan
sanitize="-fsanitize=address,undefined -fno-sanitize-recover=undefined"
if [ -n "${VALGRIND:-}" ]; then
    kind=debug sanitize=
fi
CC=$compiler BUILD_DIRECTORY=$work dev/build-libkvstore $kind >/dev/null
python3 Tests/C/make_vectors.py Tests/Vectors "$work"
codec=()
if [ -n "${CODEC_FOLDER:-}" ]; then
    codec=(-DWITH_CODEC -L"$CODEC_FOLDER" "-Wl,-rpath,$CODEC_FOLDER" -lkvstore-codec)
fi
# shellcheck disable=SC2086  # flags are words
$compiler -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -O1 -g $sanitize \
    -ISources/CKVStore/include -ISources/CKVStore -ISources/CKernels/include \
    -ISources/COpenSSL/include -ITests/C -I"$work" \
    Tests/C/*.c "$work/lib/libkvstore.a" "${codec[@]}" -lcrypto -lxxhash -lm -pthread \
    -o "$work/kvstore-tests"

if [ -n "${KVSTORED:-}" ]; then
    mkdir "$work/ssd"
    "$KVSTORED" --listen-unix-socket "$work/kvstored.sock" --listen-tcp 127.0.0.1:0 \
        --memory-budget 256MiB --ssd-directories "$work/ssd" --ssd-capacity 1GiB --ssd-reserve 0B \
        --ready-file "$work/ready" 2>"$work/kvstored.log" &
    daemon=$!
    for _ in $(seq 200); do
        [ -s "$work/ready" ] && break
        kill -0 "$daemon" 2>/dev/null || { cat "$work/kvstored.log" >&2; exit 1; }
        sleep 0.05
    done
    KVSTORED_UNIX=unix:$work/kvstored.sock
    KVSTORED_TCP=tcp:$(grep -oE '127\.0\.0\.1:[0-9]+' "$work/ready" | head -1)
    export KVSTORED_UNIX KVSTORED_TCP
fi

export STUB_SERVER=Tests/C/stub_server.py
if [ -n "${VALGRIND:-}" ]; then
    valgrind --quiet --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite \
        --child-silent-after-fork=yes "$work/kvstore-tests" "$@"
else
    "$work/kvstore-tests" "$@"
fi

# The example, as a stranger would build it.
if [ $# = 0 ]; then
    CC=$compiler BUILD_DIRECTORY=$work dev/build-libkvstore release >/dev/null
    # shellcheck disable=SC2046
    $compiler -std=c11 -Wall -Wextra -Werror clients/c/example.c \
        $(PKG_CONFIG_PATH=$work/lib/pkgconfig pkg-config --cflags --libs kvstore) -o "$work/example"
    if [ -n "${KVSTORED:-}" ]; then
        for expected in "0 of 4" "4 of 4"; do
            LD_LIBRARY_PATH=$work/lib "$work/example" "$KVSTORED_UNIX" >"$work/example.out"
            grep -q "$expected chunks are stored" "$work/example.out"
        done
    fi
    echo "example: passed"
fi
