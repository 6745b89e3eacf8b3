#!/usr/bin/env bash
# The quick check for every change: types, lint, format, dead code and the tests that need nothing but Node.
# `--static` leaves the tests out (scripts/test.sh runs all of them afterwards).
set -euo pipefail
cd "$(dirname "$0")/.."
bin=node_modules/.bin
if [ ! -x "$bin/tsc" ]; then
  echo "check: node_modules is missing or incomplete; run: npm ci" >&2
  exit 1
fi

# CI systems are taken for terminals by some of the tools.
export NO_COLOR=1
unset FORCE_COLOR
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
names=()
pids=()

# Starts one check in the background; its output is kept until it is known whether it failed.
start() {
  local name=$1 begun status
  shift
  begun=$(date +%s%N)
  (
    status=0
    "$@" >"$output/$name.log" 2>&1 </dev/null || status=$?
    echo "$status $((($(date +%s%N) - begun) / 1000000))" >"$output/$name.result"
  ) &
  names+=("$name")
  pids+=($!)
}

failed=()
# Waits for what was started and prints one line each; the output follows only where the check failed.
finish() {
  local index name status ms
  for index in "${!names[@]}"; do
    name=${names[$index]}
    wait "${pids[$index]}" || true
    status=1 ms=0
    [ ! -f "$output/$name.result" ] || read -r status ms <"$output/$name.result"
    if [ "$status" = 0 ]; then
      printf 'ok    %-10s %5d.%d s\n' "$name" $((ms / 1000)) $((ms % 1000 / 100))
    else
      failed+=("$name")
      printf 'FAIL  %-10s %5d.%d s\n' "$name" $((ms / 1000)) $((ms % 1000 / 100))
      sed 's/^/      /' "$output/$name.log"
    fi
  done
  names=()
  pids=()
}

mkdir -p node_modules/.cache
start types "$bin/tsc" --noEmit --incremental --tsBuildInfoFile node_modules/.cache/types.tsbuildinfo
start lint env -u CI "$bin/oxlint" --deny-warnings
start format env -u CI "$bin/oxfmt" --check
start dead-code "$bin/knip" --no-progress
finish
if [ "${1:-}" != --static ]; then
  # On its own, so that property tests are not timed against the compiler on a machine with two cores.
  start pure-tests "$bin/vitest" run --project pure
  finish
  [ ! -f "$output/pure-tests.log" ] || grep -aE '^ *(Test Files|Tests) ' "$output/pure-tests.log" || true
fi

if [ "${#failed[@]}" -gt 0 ]; then
  echo "check: failed: ${failed[*]}" >&2
  exit 1
fi
echo "check: all passed"
