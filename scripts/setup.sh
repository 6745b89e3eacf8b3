#!/usr/bin/env bash
# Makes this machine ready for one of Patchbay's commands, and does nothing where it is ready already.
#
#   scripts/setup.sh service   npm packages only (Patchbay alone, on a configuration file)
#   scripts/setup.sh runtime   + redis-server, rtpengine-daemon, espeak-ng
#   scripts/setup.sh demo      the same (the demo's phones are its own)
#   scripts/setup.sh test|ci   + sip-tester, baresip-core, python3, ffmpeg, prometheus
#
# Everything it says goes to standard error, so that a command behind it keeps standard output for itself.
set -euo pipefail
cd "$(dirname "$0")/.."
# Debian keeps servers in sbin, which is not on the path of ordinary users.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { echo "set-up: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

case "${1:-}" in
service) wanted=() ;;
runtime | demo) wanted=(redis-server rtpengine-daemon espeak-ng) ;;
test | ci) wanted=(redis-server rtpengine-daemon espeak-ng sip-tester baresip-core python3 ffmpeg prometheus) ;;
*) fail "usage: scripts/setup.sh service|runtime|demo|test|ci" ;;
esac

# --- Node and npm packages -------------------------------------------------------------------------------------------

command -v node >/dev/null || fail "Node is missing; install Node 20.19 or later (https://nodejs.org/en/download)."
node_version=$(node -p 'process.version + " " + process.platform + " " + process.arch')
IFS=. read -r major minor _ <<<"${node_version#v}"
if ((major < 20 || (major == 20 && minor < 19))); then
  fail "Patchbay needs Node 20.19 or later, this is ${node_version%% *}; install a newer one (https://nodejs.org/en/download)."
fi

stamp=node_modules/.patchbay-stamp
fingerprint="$node_version $(sha256sum <package-lock.json)"

# Compares what npm wrote down about node_modules with package-lock.json; packages for other platforms may be absent.
installed_as_locked() {
  [ -x node_modules/.bin/tsx ] && node -e '
    const { readFileSync } = require("node:fs");
    const packages = (file) => JSON.parse(readFileSync(file, "utf8")).packages;
    const locked = packages("package-lock.json");
    const installed = packages("node_modules/.package-lock.json");
    const same = (path) => installed[path]?.version === locked[path]?.version && installed[path]?.integrity === locked[path]?.integrity;
    const mayBeAbsent = (path) => path === "" || locked[path].optional || locked[path].devOptional;
    const missing = Object.keys(locked).filter((path) => !(path in installed) && !mayBeAbsent(path));
    process.exitCode = missing.length === 0 && Object.keys(installed).every(same) ? 0 : 1;
  ' 2>/dev/null
}

if [ "$(cat "$stamp" 2>/dev/null)" != "$fingerprint" ]; then
  if ! installed_as_locked; then
    say "installing the npm packages of package-lock.json (npm ci)"
    npm ci --no-progress >&2 || fail "npm ci failed (its messages are above); run it by hand once the npm registry can be reached: npm ci"
  fi
  echo "$fingerprint" >"$stamp"
fi

# --- Debian packages -------------------------------------------------------------------------------------------------

binary_of() {
  case "$1" in
  rtpengine-daemon) echo rtpengine ;;
  sip-tester) echo sipp ;;
  baresip-core) echo baresip ;;
  *) echo "$1" ;;
  esac
}
purpose_of() {
  case "$1" in
  redis-server) echo "Redis, the link to the bots" ;;
  rtpengine-daemon) echo "rtpengine, the media anchor" ;;
  espeak-ng) echo "espeak-ng, text-to-speech that works offline" ;;
  sip-tester) echo "SIPp, SIP scenarios for the tests" ;;
  baresip-core) echo "baresip, a softphone that the tests call with" ;;
  ffmpeg) echo "ffmpeg, which converts recordings" ;;
  prometheus) echo "Prometheus, which the test of the dashboard and the alerts asks" ;;
  python3) echo "Python, for the test of the example bot without our library" ;;
  esac
}
missing_of_wanted() {
  local package
  for package in "${wanted[@]}"; do
    command -v "$(binary_of "$package")" >/dev/null || echo "$package"
  done
}

mapfile -t missing < <(missing_of_wanted)
[ "${#missing[@]}" -gt 0 ] || exit 0

by_hand="apt-get update && apt-get install --no-install-recommends ${missing[*]}"
command -v apt-get >/dev/null ||
  fail "missing: ${missing[*]}. This is no Debian system, so install what contains these programs by hand: $(for package in "${missing[@]}"; do binary_of "$package"; done | paste -sd ' ')."

if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
elif command -v sudo >/dev/null && [ -t 0 ] && [ -t 2 ]; then
  as_root=(sudo)
else
  fail "missing: ${missing[*]}, and this user cannot become root; run as root: $by_hand"
fi

for package in "${missing[@]}"; do say "installing the Debian package $package ($(purpose_of "$package"))"; done

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
our_policy=no
clean_up() {
  rm -f "$log"
  if [ "$our_policy" = yes ]; then "${as_root[@]}" rm -f "$policy"; fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

run_apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@" \
    >"$log" 2>&1 </dev/null || {
    tail -n 15 "$log" | sed 's/^/  /' >&2
    fail "could not install ${missing[*]}: apt-get $1 failed (its last lines are above). Is there a network? By hand: $by_hand"
  }
}

# Patchbay starts its own Redis and rtpengine on free ports. The packages would start theirs as system services, on the
# well-known ports and for good: invoke-rc.d asks this script, and 101 means "forbidden by policy".
if [ ! -e "$policy" ]; then
  our_policy=yes
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi
run_apt update
run_apt install --no-install-recommends "${missing[@]}"

mapfile -t still_missing < <(missing_of_wanted)
[ "${#still_missing[@]}" = 0 ] || fail "apt-get installed ${missing[*]}, but these give no program on the path: ${still_missing[*]}"

# The policy above holds only now; an enabled unit would still start with the next boot.
if [ -d /run/systemd/system ]; then
  for package in "${missing[@]}"; do
    mapfile -t units < <(dpkg -L "$package" | sed -n 's#^\(/usr\)\?/lib/systemd/system/\([^/@]*\.service\)$#\2#p')
    [ "${#units[@]}" -gt 0 ] || continue
    if "${as_root[@]}" systemctl --quiet disable "${units[@]}" >/dev/null 2>&1; then
      say "left the system service of $package switched off (${units[*]})"
    else
      say "could not switch off the system service of $package; by hand: systemctl disable ${units[*]}"
    fi
  done
fi
say "ready"
