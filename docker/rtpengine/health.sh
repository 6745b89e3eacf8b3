#!/bin/bash
# Healthy when rtpengine answers a ping on its ng port (bencode: {"command": "ping"}, behind a cookie).
exec 3<>/dev/udp/127.0.0.1/22222
printf 'health d7:command4:pinge' >&3
read -r -t 2 -N 6 answer <&3
[ "$answer" = health ]
