#!/usr/bin/env bash
# usage: server-check.sh OMNI   OMNI serve through OpenAI's clients in Python and JavaScript and Wyoming's in Python, held to its OpenAPI description by
# schemathesis, and asked for random JSON Schemas. The clients' environments lie in OMNI_CLIENTS_ENV and OMNI_NODE_CLIENTS_ENV (~/.cache/omni/clients,
# node-clients). LiteLLM, Pipecat and LiveKit: agents-check.sh.
set -eu
omni=$(realpath "$1")
cd "$(dirname "$0")/.."
python=$(scripts/clients-env.sh "${OMNI_CLIENTS_ENV:-$HOME/.cache/omni/clients}")
OMNI_CLIENTS=$(scripts/node-clients-env.sh "${OMNI_NODE_CLIENTS_ENV:-$HOME/.cache/omni/node-clients}")
export OMNI_CLIENTS
node tests/server/openai_client.mjs "$omni"
node tests/server/openai_realtime.mjs "$omni"
"$python" tests/server/openapi_check.py "$omni" 30
"$python" tests/server/openai_client.py "$omni"
"$python" tests/server/wyoming_client.py "$omni"
"$python" tests/server/random_schemas.py "$omni" 500
