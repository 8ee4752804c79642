#!/usr/bin/env bash
# usage: router-check.sh OMNI   Three servers behind the cache-aware model router smg (in OMNI_ROUTER_ENV, ~/.cache/omni/router) while one is killed, one
# drained and one stopped.
set -eu
omni=$(realpath "$1")
cd "$(dirname "$0")/.."
env=${OMNI_ROUTER_ENV:-$HOME/.cache/omni/router}
wanted='smg==1.13.0'
if [ "$(cat "$env/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "router-check: installing $wanted into $env" >&2
  rm -rf "$env"
  python3 -m venv "$env" >&2
  "$env/bin/pip" install --quiet --disable-pip-version-check "$wanted" >&2
  echo "$wanted" >"$env/complete"
fi
python3 tests/deploy/failover.py "$omni" "$env/bin/smg" launch
