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
# Whatever pip believes is installed already was not to be found.
pip_install() { python3 -m pip install --quiet --force-reinstall "$@" uv; }
pip_install --user --break-system-packages 2> /dev/null || pip_install --user || pip_install
if ! command -v uv > /dev/null; then
    echo "error: uv was installed where this shell does not look: put $(python3 -m site --user-base)/bin on PATH"
    exit 1
fi
