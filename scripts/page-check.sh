#!/usr/bin/env bash
# usage: page-check.sh [--screenshots FOLDER] [WORD...]
# Checks the page in headless Chromium (tests/server/page): all that it does against a stand-in server, then the same page from build/omni serve,
# where that is built. WORD: only the checks whose names contain one. npm's packages lie in OMNI_NODE_ENV (~/.cache/omni/node).
set -eu
cd "$(dirname "$0")/.."
export OMNI_NODE_ENV=${OMNI_NODE_ENV:-$HOME/.cache/omni/node}
wanted='playwright-core@1.65.1 axe-core@4.14.1'
if [ "$(cat "$OMNI_NODE_ENV/complete" 2>/dev/null)" != "$wanted" ]; then
  echo "page-check: installing $wanted into $OMNI_NODE_ENV" >&2
  rm -rf "$OMNI_NODE_ENV"
  mkdir -p "$OMNI_NODE_ENV"
  echo '{"private": true}' >"$OMNI_NODE_ENV/package.json"
  # shellcheck disable=SC2086
  (cd "$OMNI_NODE_ENV" && npm install --no-audit --no-fund --loglevel=error $wanted >&2)
  echo "$wanted" >"$OMNI_NODE_ENV/complete"
fi
for file in src/server/page/*.js tests/server/page/*.mjs; do node --check "$file"; done
exec node tests/server/page/check.mjs "$@"
