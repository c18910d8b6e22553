#!/bin/sh
# Make (or complete) the project's virtual environment: make_venv.sh PYTHON VENV EXTRAS
# Starts from a bare Debian or Ubuntu with Python >= 3.10; says what it does; never deletes an environment.
# TORCH is installed first and on its own: everything after it must find torch present, because "torch" left to
# another package's taste means several GB of CUDA libraries.
set -eu

python=$1
venv=$2
extras=$3
started=$(date +%s)

say() { echo "== environment: $*"; }
fail() { echo "environment: $*" >&2; exit 2; }

apt_install() {
    say "apt-get install $*"
    if ! command -v apt-get > /dev/null; then
        fail "$*: missing and this is not a Debian: install it with your package manager and run make again"
    elif [ "$(id -u)" = 0 ]; then
        root=""
    elif command -v sudo > /dev/null && sudo -n true 2> /dev/null; then
        root="sudo"
    else
        fail "$*: missing and no right to install it: run 'sudo apt-get install $*' and then make again"
    fi
    $root env DEBIAN_FRONTEND=noninteractive apt-get update -qq < /dev/null
    $root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" < /dev/null > /dev/null
}

command -v "$python" > /dev/null || apt_install python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "PYTHON: $("$python" -V 2>&1): needs 3.10 or newer: run make PYTHON=/path/to/newer/python"

if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import venv, ensurepip' 2> /dev/null ||
        apt_install "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
    say "$venv from $("$python" -V)"
    "$python" -m venv "$venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@" < /dev/null; }

if ! "$venv/bin/python" -c 'import torch' 2> /dev/null; then
    say "pip install $TORCH"
    pip install -qq ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
fi
say "pip install -e .[$extras]"
pip install -qq -e ".[$extras]"
say "ready after $(($(date +%s) - started)) s: $("$venv/bin/python" -c 'import sys, torch; print("Python", sys.version.split()[0], "torch", torch.__version__)')"
