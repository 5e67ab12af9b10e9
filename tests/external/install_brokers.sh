#!/usr/bin/env bash
# Installs Mosquitto, the Java that Kafka needs, and what makes networks with routers, or says how; Kafka itself is a
# download. Tests of what is missing then are skipped and say so.
set -euo pipefail

packages=()
[ -x /usr/sbin/mosquitto ] || command -v mosquitto >/dev/null || packages+=(mosquitto)
command -v java >/dev/null || packages+=(openjdk-17-jre-headless)
[ -x /usr/sbin/nft ] || command -v nft >/dev/null || packages+=(nftables)
[ -x /usr/sbin/tc ] || [ -x /sbin/tc ] || command -v tc >/dev/null || packages+=(iproute2)
[ ${#packages[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed, and this user cannot install them: ${packages[*]}" >&2
    echo "on Debian and its like: sudo apt-get install ${packages[*]}; elsewhere see docs/streams.md" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# a package starts its own broker after installation, unless it is told not to; tests start theirs
apt-get update --quiet=2 &&
    RUNLEVEL=1 apt-get install --quiet=2 --yes --no-install-recommends "${packages[@]}" ||
    echo "cannot install ${packages[*]}" >&2
