#!/usr/bin/env bash
# Runs training/quality.py in its Python environment, which lies outside the tree and is kept. usage: quality.sh OMNI [arguments of quality.py]
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/omni
env=${OMNI_QUALITY_ENV:-$cache/quality}
wanted='numpy==2.4.6 scipy==1.17.1 pillow pesq==0.0.4 pystoi==0.4.1 pocketsphinx==5.1.1'
if [ "$(cat "$env/complete" 2>/dev/null)" != "$wanted" ]; then
  rm -rf "$env"
  python3 -m venv "$env"
  # shellcheck disable=SC2086
  "$env/bin/pip" install --quiet --disable-pip-version-check $wanted
  echo "$wanted" >"$env/complete"
fi
# The reference's environment is several GB: what needs it runs where it is already.
if [ -z "${OMNI_REFERENCE:-}" ] && [ -x "$cache/reference/bin/python" ] && [ -f "$cache/reference/complete" ]; then
  export OMNI_REFERENCE=$cache/reference/bin/python
fi
exec "$env/bin/python" "$here/training/quality.py" "$@" --out "${OMNI_QUALITY_WORK:-$cache/quality-work}"
