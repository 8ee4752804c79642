#!/usr/bin/env bash
# Compares omni with the reference implementation: whole runs, then the parts. usage: parity.sh OMNI SHARED [arguments of tests/parity/run.py]
# With arguments for run.py only that runs. SHARED holds reference/tiny_omni.py and tokenizer/tokenizer.json. The last line is
# "N passed, N failed". The Python environment lies outside the tree and is kept: $OMNI_PYTHON_ENV, or ~/.cache/omni/reference.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
omni=$(realpath "$1") shared=$(realpath "$2")
shift 2
build=${omni%/*}
python=$("$here/scripts/python-env.sh" "${OMNI_PYTHON_ENV:-${XDG_CACHE_HOME:-$HOME/.cache}/omni/reference}") || exit 1
if [ $# -gt 0 ]; then
  exec "$python" "$here/tests/parity/run.py" --omni "$omni" --shared "$shared" "$@"
fi
# What the reference computed is kept between the calls of run.py; nothing outlives this script.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CUDA_VISIBLE_DEVICES=''
passed=0 failed=0

# runs TYPES VARIANTS
runs() {
  local start=$SECONDS p=0 f=1
  "$python" "$here/tests/parity/run.py" --omni "$omni" --shared "$shared" --work "$work" --types "$1" --variants "$2" | tee "$work/log"
  if grep -qE '^[0-9]+ passed' "$work/log"; then
    read -r p f < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed.*/\1 \2/p' "$work/log" | tail -n 1)
  fi
  passed=$((passed + p)) failed=$((failed + f))
  echo "-- runs, $1, variants $2: $((SECONDS - start)) s"
}

# part NAME COMMAND...: one check; its output is shown when it fails.
part() {
  local name=$1 start=$SECONDS
  shift
  if "$@" >"$work/log" 2>&1; then
    passed=$((passed + 1))
    echo "ok $name ($((SECONDS - start)) s)"
  else
    failed=$((failed + 1))
    tail -n 40 "$work/log"
    echo "FAIL $name ($((SECONDS - start)) s)"
  fi
}

runs f32 a,b,c,a:7,random:1,random:2
runs f16,bf16,q8_0 a,b,c
runs q6_k,q5_k_m,q4_k_m c

checks=$here/tests/reference
# run.py leaves the checkpoints in work/NAME/checkpoint.
a=$work/a/checkpoint b=$work/b/checkpoint
part "logits of variant c in every format" "$build/test_formats" "$work/c/gguf-f32/qwen3-omni-f32.gguf"
part "conversion equals the gguf package" "$python" "$checks/check_gguf.py" --omni "$omni" "$b"
part "tokenizer, full vocabulary" "$python" "$checks/check_tokenizer.py" --tokenizer "$shared/tokenizer/tokenizer.json" --tool "$build/tokenize_tool" --no-bench
part "positions" "$python" "$checks/positions.py" check "$build/test_positions" --cases 300 --seed 1
part "mmproj" "$omni" convert "$a" -o "$work/vision" --type f32 --parts mmproj
part "vision encoder" "$python" "$checks/check_vision.py" "$a" "$work/vision/mmproj-qwen3-omni-f32.gguf" "$build/vision_dump" --quick
if command -v espeak-ng >/dev/null && command -v sox >/dev/null; then
  part "sound files, mel, audio encoder" "$python" "$checks/check_audio.py" "$build/audio_trace" "$a"
else
  echo "sound files, mel, audio encoder: left out, needs espeak-ng and sox"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
