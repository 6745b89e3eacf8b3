#!/usr/bin/env bash
# What `npm start` runs. Without arguments everything a softphone needs is started on loopback: Redis, rtpengine, the
# service and the sample bot. With arguments (`npm start -- --config FILE`) it is the service alone, which needs Node only.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$#" -eq 0 ]; then
  bash scripts/setup.sh runtime
  exec node --import tsx demo/quick-start.ts
fi
bash scripts/setup.sh service
# Transactions live for 32 s, longer than the young generation that Node gives itself takes to fill: see docs/performance.md.
exec node --max-semi-space-size=32 --import tsx src/main.ts "$@"
