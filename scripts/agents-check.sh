#!/usr/bin/env bash
# usage: agents-check.sh OMNI   OMNI serve through LiteLLM, Pipecat and LiveKit's agents, unmodified. Their environment lies in OMNI_AGENTS_ENV
# (~/.cache/omni/agents). Under CI a client's second try counts, and is told: answers of the random model are drawn at random, and some have no speech.
set -u
omni=$(realpath "$1") log=$(mktemp)
trap 'rm -f "$log"' EXIT
cd "$(dirname "$0")/.." || exit 1
python=$(scripts/agents-env.sh "${OMNI_AGENTS_ENV:-$HOME/.cache/omni/agents}") || exit 1
passed=0 failed=0 p=0 f=0
for client in litellm pipecat livekit; do
  "$python" "tests/server/${client}_client.py" "$omni" 2>&1 | tee "$log"
  if [ "${PIPESTATUS[0]}" -ne 0 ] && [ -n "${CI-}" ]; then
    echo "again: a first try of $client failed"
    "$python" "tests/server/${client}_client.py" "$omni" 2>&1 | tee "$log"
  fi
  read -r p f < <(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1) || { p=0 f=1; }
  passed=$((passed + p)) failed=$((failed + f))
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
