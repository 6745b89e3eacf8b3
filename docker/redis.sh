#!/bin/sh
# Starts Redis with the password of the secret. The configuration goes in by standard input, so that the password is
# neither in the list of processes nor in a file of the image.
set -eu
password=$(cat /run/secrets/redis_password)
exec redis-server - <<CONFIG
bind 127.0.0.1
port 6379
dir /data
appendonly yes
appendfsync everysec
save ""
requirepass $password
CONFIG
