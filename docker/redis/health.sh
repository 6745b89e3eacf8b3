#!/bin/sh
# Healthy when Redis answers its owner. The password goes by the environment, which other users cannot read.
REDISCLI_AUTH=$(cat /run/secrets/redis_password)
export REDISCLI_AUTH
[ "$(redis-cli -h 127.0.0.1 ping)" = PONG ]
