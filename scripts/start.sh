#!/usr/bin/env bash
# What `npm start` runs. Without arguments Patchbay starts Redis, rtpengine and the sample bot itself, so they must be
# installed; with arguments (`npm start -- --config FILE`) it is the service alone and needs nothing but Node.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$#" -gt 0 ]; then mode=service; else mode=runtime; fi
bash scripts/setup.sh "$mode"
exec node_modules/.bin/tsx src/main.ts "$@"
