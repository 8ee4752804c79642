#!/usr/bin/env bash
# The CUDA backend on this machine's card. usage: check-cuda.sh BUILD [ROUNDS]
# Ends with "N passed, N failed".
set -u
build=$1 rounds=${2:-100} passed=0 failed=0
here=$(cd "$(dirname "$0")/.." && pwd)
tiny=$here/models/tiny
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
check() { # COMMAND...
  echo "=== $*"
  "$@" 2>&1 | tee "$log"
  local status=${PIPESTATUS[0]} p=0 f=0
  read -r p f < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)
  passed=$((passed + ${p:-0})) failed=$((failed + ${f:-0}))
  [ "$status" -eq 0 ] || [ "${f:-0}" -gt 0 ] || failed=$((failed + 1))
}
check "$build/tests/cuda/check_operations_card" "$rounds"
check "$build/tests/cuda/check_model_card" "$tiny"/{qwen3-omni-f16,mmproj-qwen3-omni-f16,talker-qwen3-omni-f16}.gguf --exact
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
