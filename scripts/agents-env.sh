#!/usr/bin/env bash
# Makes a Python environment with LiteLLM, Pipecat and LiveKit's agents (tests/server/agents.txt) in the folder given, unless it is there, and prints its
# interpreter. 0.6 GB.
set -eu
env=$1
list=$(dirname "$0")/../tests/server/agents.txt
if ! cmp -s "$list" "$env/complete"; then
  echo "agents-env: installing $list into $env" >&2
  rm -rf "$env"
  python3 -m venv "$env" >&2
  "$env/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-compile -r "$list" >&2
  cp "$list" "$env/complete"
fi
echo "$env/bin/python"
