#!/bin/sh
# Starts Redis with the passwords of the secrets. The configuration goes in by standard input, so that no password is in
# the list of processes or in a file of the image.
set -eu
password=$(cat /run/secrets/redis_password)
bot_password=$(cat /run/secrets/redis_bot_password)
# The default user is Patchbay and whoever operates it. A bot has a user of its own with the rights of
# docs/bot-contract.md: it reaches its own calls and nobody else's. Add one line for each bot.
exec redis-server - <<CONFIG
bind 127.0.0.1
port 6379
dir /data
appendonly yes
appendfsync everysec
save ""
requirepass $password
user demo on >$bot_password resetchannels &pb:{demo}:* ~pb:{demo}:* -@all +publish +subscribe +xread +xreadgroup +xack +xautoclaim +xgroup|create +ping +client|setname
CONFIG
