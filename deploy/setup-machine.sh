#!/usr/bin/env bash
# Makes the virtual environment DIR, and before it whatever Debian package that needs; says what is missing where it can't.
# Usage: PYTHON=python3 deploy/setup-machine.sh DIR
set -euo pipefail
environment=$1
python=${PYTHON:-python3}

fail() {
    printf 'fv2es: %s\n' "$*" >&2
    exit 1
}

# Installs Debian packages as root, else says which command would.
need_packages() {
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing Debian packages: $*"
        apt-get update -qq >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        fail "missing Debian packages; run: sudo apt-get install $*"
    fi
}

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the embedded Triton runs on Linux x86_64 only; this is $(uname -s) $(uname -m)"
command -v "$python" >/dev/null || need_packages python3 python3-venv
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.11 | 3.12) ;;
    *) fail "Python 3.11 or 3.12 is needed, $python is $version; name another: make PYTHON=python3.12 demo" ;;
esac
"$python" -c 'import ensurepip, venv' 2>/dev/null || need_packages "python$version-venv"
has_libpython=$("$python" -c 'import ctypes, sysconfig, sys, os
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
try:
    ctypes.CDLL(name)
    print(1)
except OSError:
    print(int(os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR"), name))))')
[ "$has_libpython" = 1 ] || need_packages "libpython$version"
[ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
