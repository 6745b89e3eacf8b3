#!/usr/bin/env bash
# What `npm start` runs. Without arguments everything a softphone needs is started on loopback (demo/quick-start.ts), so
# Redis, rtpengine and a voice must be installed; with arguments (`npm start -- --config FILE`) it is the service alone
# and needs nothing but Node.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$#" -gt 0 ]; then
  bash scripts/setup.sh service
  exec node --import tsx src/main.ts "$@"
fi
bash scripts/setup.sh runtime
exec node --import tsx demo/quick-start.ts
