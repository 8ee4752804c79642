#!/usr/bin/env bash
# Makes the Python environment of the reference implementation in the folder given, unless it is there, and prints its interpreter.
set -eu
env=$1
wanted='torch==2.14.1 torchvision==0.29.1 transformers==5.17.0 gguf safetensors numpy pillow qwen-omni-utils==0.0.9 tokenizers'
if [ "$(cat "$env/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "python-env: installing the reference implementation (torch, transformers, ...), several GB, into $env" >&2
  rm -rf "$env"
  python3 -m venv "$env" >&2
  # shellcheck disable=SC2086
  "$env/bin/pip" install --quiet --disable-pip-version-check $wanted >&2
  echo "$wanted" >"$env/complete"
fi
echo "$env/bin/python"
