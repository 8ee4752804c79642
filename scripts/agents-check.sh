#!/usr/bin/env bash
# usage: agents-check.sh OMNI   OMNI serve through LiteLLM, Pipecat and LiveKit's agents, unmodified. Their environment lies in OMNI_AGENTS_ENV
# (~/.cache/omni/agents).
set -eu
omni=$(realpath "$1")
cd "$(dirname "$0")/.."
python=$(scripts/agents-env.sh "${OMNI_AGENTS_ENV:-$HOME/.cache/omni/agents}")
for client in litellm pipecat livekit; do
  "$python" "tests/server/${client}_client.py" "$omni"
done
