#!/usr/bin/env bash
# Compares omni with the reference implementation. usage: parity.sh OMNI SHARED [arguments of tests/parity/run.py]
# The Python environment lies outside the tree and is kept: $OMNI_PYTHON_ENV, or ~/.cache/omni/reference.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
omni=$1 shared=$2
shift 2
env=${OMNI_PYTHON_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/omni/reference}
python=$("$here/scripts/python-env.sh" "$env")
exec "$python" "$here/tests/parity/run.py" --omni "$omni" --shared "$shared" "$@"
