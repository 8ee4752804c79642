#!/usr/bin/env bash
# examples.sh OMNI MANY_AT_ONCE: what examples/many_at_once.c answers to several questions is what the program answers to each alone.
set -eu
cd "$(dirname "$0")/.."
omni=$1 many=$2 model=models/tiny/qwen3-omni-f16.gguf
questions=("How are you?" "What is a sonnet?" "Count to ten." "Hello" "And why?" "Who?" "When?" "Where is it?" "How far?" "Again?")
got=$("$many" $model "${questions[@]}" | od -c)
want=$(for question in "${questions[@]}"; do
  printf '%s\n' "$question"
  "$omni" run -m $model -p "$question" -n 200 -s 0 --json | python3 -c 'import json, sys; sys.stdout.buffer.write(json.load(sys.stdin)["text"].encode())'
  printf '\n\n'
done | od -c)
[ "$got" = "$want" ] || { echo "many_at_once answers otherwise than omni run"; diff <(echo "$want") <(echo "$got") | head; exit 1; }
! "$many" /nowhere.gguf "Hello" 2>/dev/null || { echo "no error without a model"; exit 1; }
