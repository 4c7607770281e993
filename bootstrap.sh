#!/bin/sh
# Makes or refreshes .venv: exactly what requirements.lock says, every file checked against its hash, and this project
# in development mode. Needs Python 3.11 or newer with venv; uses the uv on PATH, or else gets uv with pip.
# Settings of pip and uv (index, certificates) are respected. PYTHON=... names another interpreter.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "setup: $*" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not Python 3.11 or newer. Name another one, or leave PYTHON unset."
else
    for PYTHON in python3 python3.14 python3.13 python3.12 python3.11 none; do
        new_enough "$PYTHON" && break
    done
    [ "$PYTHON" != none ] || fail "Python 3.11 or newer is needed and none was found." \
        "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3"
fi

if uv --version >/dev/null 2>&1; then
    echo "setup: $("$PYTHON" --version) in .venv, packages by $(uv --version)"
    uv=uv
    .venv/bin/python -c '' 2>/dev/null || "$PYTHON" -m venv --clear --without-pip .venv
else
    echo "setup: $("$PYTHON" --version) in .venv, packages by uv, which pip gets first"
    uv=.venv/bin/uv
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$PYTHON cannot make virtual environments. Install python3-venv (Debian, Ubuntu: apt-get install python3-venv)."
    .venv/bin/python -m pip --version >/dev/null 2>&1 || "$PYTHON" -m venv --clear .venv
    .venv/bin/python -m pip install --require-hashes -r requirements-uv.lock

    # uv reads none of pip's settings: pass on the two that decide whether anything can be fetched at all.
    pip_setting() { .venv/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
    index=${UV_DEFAULT_INDEX:-${UV_INDEX_URL:-${PIP_INDEX_URL:-$(pip_setting index-url)}}}
    certificates=${SSL_CERT_FILE:-${PIP_CERT:-$(pip_setting cert)}}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
    [ -z "$certificates" ] || export SSL_CERT_FILE="$certificates"
fi

echo "setup: fetching what requirements.lock names (PyTorch is large; the first time takes minutes)"
"$uv" pip sync --python .venv/bin/python --require-hashes requirements.lock
"$uv" pip install --python .venv/bin/python --no-deps --no-build-isolation --editable .
touch .venv/.ready
