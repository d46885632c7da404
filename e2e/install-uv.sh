#!/usr/bin/env bash
# uv, from PyPI, wherever pip may put it on this machine. Debian's Python comes without pip; as root apt brings it.
set -euo pipefail
echo "installing uv"
if ! python3 -m pip --version > /dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends python3-pip > /dev/null
    else
        echo "error: uv is needed and there is no pip to install it: install python3-pip (or uv itself, from docs.astral.sh/uv)"
        exit 1
    fi
fi
python3 -m pip install --quiet --user --break-system-packages uv 2> /dev/null || python3 -m pip install --quiet --user uv || python3 -m pip install --quiet uv
