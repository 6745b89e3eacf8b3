#!/bin/bash
# Healthy when the event socket asks for the password.
exec 3<>/dev/tcp/127.0.0.1/8021
read -r -t 2 line <&3
[ "$line" = "Content-Type: auth/request" ]
