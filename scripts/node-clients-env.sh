#!/usr/bin/env bash
# Puts the JavaScript clients that tests/server speaks through into the folder given, unless they are there, and prints the folder.
set -eu
env=$1
wanted='openai@7.57.0 ws@8.23.0'
if [ "$(cat "$env/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "node-clients-env: installing $wanted into $env" >&2
  rm -rf "$env"
  mkdir -p "$env"
  echo '{"private": true}' >"$env/package.json"
  # shellcheck disable=SC2086
  (cd "$env" && npm install --no-audit --no-fund --loglevel=error $wanted >&2)
  echo "$wanted" >"$env/complete"
fi
echo "$env"
