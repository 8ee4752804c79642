#!/usr/bin/env bash
# Makes a Python environment with the clients that tests/server speaks through in the folder given, unless it is there, and prints its interpreter.
set -eu
env=$1
wanted='openai[realtime]==3.57.0 jsonschema[format]==4.26.0 schemathesis==4.32.5 openapi-spec-validator==0.9.0 wyoming==1.10.2'
if [ "$(cat "$env/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "clients-env: installing $wanted into $env" >&2
  rm -rf "$env"
  python3 -m venv "$env" >&2
  # shellcheck disable=SC2086
  "$env/bin/pip" install --quiet --disable-pip-version-check $wanted >&2
  echo "$wanted" >"$env/complete"
fi
echo "$env/bin/python"
