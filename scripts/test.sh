#!/usr/bin/env bash
# Everything that can be checked: the static checks, the pure tests, the tests with real servers; then that nothing was
# left behind. The last line is the sum: "N passed, N failed, N skipped" (a static check and each check for leftovers
# count as one). `npm test` runs scripts/setup.sh before it.
set -euo pipefail
cd "$(dirname "$0")/.."
unset NODE_OPTIONS VITEST

# Tests find only this folder for their files, and every process they start carries the mark of this run.
run_id="patchbay-$$-$(date +%s)"
scratch=$(mktemp -d)
own=$(mktemp -d)
clean_up() { rm -rf "$scratch" "$own"; }
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

passed=0 failed=0 skipped=0
problem() {
  failed=$((failed + 1))
  echo "FAIL  $*"
}

# Files of the tree that git does not track, ignored ones included.
strays() { git ls-files --others --exclude=node_modules 2>/dev/null | sort || true; }
# Processes of this run that are still there.
left_running() {
  local found
  found=$(grep -lzsx "TEST_RUN_MARK=$run_id" /proc/[0-9]*/environ || true)
  sed 's#/proc/\([0-9]*\)/environ#\1#' <<<"$found" | grep . || true
}

begun=$SECONDS
strays >"$own/strays-before"

echo "== static checks"
bash scripts/check.sh --static 2>&1 | tee "$own/static.log" || true
passed=$((passed + $(grep -c '^ok ' "$own/static.log" || true)))
failed=$((failed + $(grep -c '^FAIL ' "$own/static.log" || true)))
if ! grep -Eq '^(ok|FAIL) ' "$own/static.log"; then problem "the static checks did not run"; fi

sum_of() { node -p 'JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"))[process.argv[2]]' "$1" "$2"; }

# One project after the other: the pure tests would take the processor from the real servers and phones.
for project in pure fuzz wire sound soak; do
  echo "== $project tests"
  summary="$own/$project.json"
  status=0
  env TMPDIR="$scratch" TEST_RUN_MARK="$run_id" TEST_SUMMARY_FILE="$summary" NO_COLOR=1 \
    timeout --foreground -k 15 1500 \
    node_modules/.bin/vitest run --project "$project" --reporter=default --reporter=./scripts/vitest-summary.ts </dev/null || status=$?
  if [ ! -s "$summary" ]; then
    problem "the $project tests ended without a result (exit status $status)"
    continue
  fi
  in_project=$(sum_of "$summary" failed)
  passed=$((passed + $(sum_of "$summary" passed)))
  failed=$((failed + in_project))
  skipped=$((skipped + $(sum_of "$summary" skipped)))
  node -e 'for (const skip of JSON.parse(require("fs").readFileSync(process.argv[1], "utf8")).skips) console.log("skipped: " + skip)' "$summary"
  if [ "$status" != 0 ] && [ "$in_project" = 0 ]; then problem "vitest ended with status $status though no test failed"; fi
done

echo "== leftovers"
for _ in 1 2 3 4 5 6 7 8 9 10; do
  [ -n "$(left_running)" ] || break
  sleep 0.2
done
mapfile -t pids < <(left_running)
if [ "${#pids[@]}" = 0 ]; then
  passed=$((passed + 1))
  echo "ok    no process left"
else
  for pid in "${pids[@]}"; do
    problem "process $pid was left running: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c1-200)"
    kill -KILL "$pid" 2>/dev/null || true
  done
fi

# tsx keeps a cache in the temporary folder by design; everything else there was made by a test.
mapfile -t files < <(find "$scratch" -mindepth 1 -maxdepth 1 ! -name 'tsx-*' ! -name 'node-compile-cache' | sort)
if [ "${#files[@]}" = 0 ]; then
  passed=$((passed + 1))
  echo "ok    no file left in the temporary folder"
else
  problem "left in the temporary folder: $(printf '%s ' "${files[@]#"$scratch"/}" | cut -c1-500)"
fi

# Only where nobody else works in the tree at the same time, as in CI.
if [ "${CI:-}" = true ]; then
  strays >"$own/strays-after"
  new=$(comm -13 "$own/strays-before" "$own/strays-after" | head -n 20)
  if [ -z "$new" ]; then
    passed=$((passed + 1))
    echo "ok    no file left in the tree"
  else
    problem "left in the tree: $(tr '\n' ' ' <<<"$new")"
  fi
fi

echo "took $((SECONDS - begun)) s"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
