#!/bin/sh
# Makes the secrets of docker-compose.yml that are not there yet: docker/secrets/NAME, one random word each.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
# Containers read the files as users of their own, so the files are readable; the folder around them is not.
chmod 700 secrets
for name in redis_password redis_bot_password drachtio_secret freeswitch_password grafana_password; do
  [ -s "secrets/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name"
  chmod 444 "secrets/$name"
done
