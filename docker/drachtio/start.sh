#!/bin/sh
# Starts drachtio-server. Its configuration holds the secret, so it is written to memory (/tmp is a tmpfs), for this user.
set -eu
umask 077
secret=$(cat /run/secrets/drachtio_secret)
case $secret in
*[!A-Za-z0-9]* | '')
  echo "drachtio: the secret may have letters and digits only (docker/make-secrets.sh makes one)" >&2
  exit 1
  ;;
esac
# Behind NAT the address that callers reach this host at is not its own.
external=
[ "$PATCHBAY_PUBLIC_ADDRESS" = "$PATCHBAY_LOCAL_ADDRESS" ] || external=" external-ip=\"$PATCHBAY_PUBLIC_ADDRESS\""
# SIP over TLS is switched on by a certificate in docker/tls. The server looks for the chain below it in a file of its own,
# and without one does not start; the certificate's file has both.
tls_contact= tls_files=
if [ -e /etc/patchbay-tls/cert.pem ]; then
  if [ ! -r /etc/patchbay-tls/cert.pem ] || [ ! -r /etc/patchbay-tls/key.pem ]; then
    echo "drachtio: user $(id -u) cannot read docker/tls/cert.pem and docker/tls/key.pem" >&2
    exit 1
  fi
  tls_contact="<contact$external>sips:$PATCHBAY_LOCAL_ADDRESS:5061;transport=tls</contact>"
  tls_files="<key-file>/etc/patchbay-tls/key.pem</key-file><cert-file>/etc/patchbay-tls/cert.pem</cert-file>"
  tls_files="$tls_files<chain-file>/etc/patchbay-tls/cert.pem</chain-file>"
fi
# Whoever knows the secret makes and ends calls, and the server obeys some commands even without it: the control port is
# on loopback. SIP is on one address only. A session timer is kept up by the server, also while Patchbay is away. What
# the server guesses about NAT goes wrong behind a proxy, so it is off; call records and SIP traces would fill the disk
# with people's numbers, so they are off too, and so is memory debugging (it is on only where it is asked for).
cat >/tmp/drachtio.conf.xml <<CONFIG
<drachtio>
  <admin port="9022" secret="$secret" tcp-keepalive="45">127.0.0.1</admin>
  <sip>
    <contacts>
      <contact$external>sip:$PATCHBAY_LOCAL_ADDRESS:5060;transport=udp,tcp</contact>
      $tls_contact
    </contacts>
    <udp-mtu>4096</udp-mtu>
    <session-timers default-refresher="uas"/>
    <tls><min-tls-version>1.2</min-tls-version>$tls_files</tls>
  </sip>
  <cdrs>false</cdrs>
  <logging>
    <console/>
    <sofia-loglevel>3</sofia-loglevel>
    <loglevel>warning</loglevel>
  </logging>
</drachtio>
CONFIG
exec drachtio -f /tmp/drachtio.conf.xml --disable-nat-detection
