#!/bin/sh
# Starts FreeSWITCH on a configuration of its own. The image's entry point would open the event socket, which runs any
# command, to every address. The password stands in the configuration, so that is written to memory (/tmp is a tmpfs).
set -eu
umask 077
password=$(cat /run/secrets/freeswitch_password)
case $password in
*[!A-Za-z0-9]* | '')
  echo "freeswitch: the password may have letters and digits only (docker/make-secrets.sh makes one)" >&2
  exit 1
  ;;
esac
home=/tmp/freeswitch
mkdir -p $home/conf $home/log $home/db $home/run $home/temp
# By standard input, so that the password is not in the list of processes.
sed -f - /etc/freeswitch/freeswitch.xml >$home/conf/freeswitch.xml <<RULES
s/@PASSWORD@/$password/
s/@LOCAL_ADDRESS@/$PATCHBAY_LOCAL_ADDRESS/
s/@PUBLIC_ADDRESS@/$PATCHBAY_PUBLIC_ADDRESS/
RULES
# Patchbay reads and deletes what FreeSWITCH records.
umask 022
exec freeswitch -nonat -nc -nf -np -conf $home/conf -log $home/log -db $home/db -run $home/run -temp $home/temp
