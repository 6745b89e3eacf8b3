#!/bin/bash
# Healthy when the control port takes connections.
exec 3<>/dev/tcp/127.0.0.1/9022
