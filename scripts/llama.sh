#!/usr/bin/env bash
# Checks that llama.cpp runs the files that omni writes, and that omni quantises no worse. usage: llama.sh OMNI SHARED
# llama.cpp is built from the source package of llama-cpp-python (PyPI), the targets needed only, in $OMNI_LLAMA, or
# ~/.cache/omni/llama.cpp; some minutes, once. It is a peer to compare with: nothing of it goes into omni.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
omni=$(realpath "$1") shared=$(realpath "$2") version=0.3.36
cache=${XDG_CACHE_HOME:-$HOME/.cache}/omni
folder=${OMNI_LLAMA:-$cache/llama.cpp}
python=$("$here/scripts/python-env.sh" "${OMNI_PYTHON_ENV:-$cache/reference}")
if [ "$(cat "$folder/complete" 2>/dev/null)" != "$version" ] || [ ! -x "$folder/build/bin/llama-quantize" ]; then
  echo "llama: building llama.cpp in $folder" >&2
  command -v g++ >/dev/null || { echo "llama: g++ is missing" >&2; exit 1; }
  rm -rf "$folder" && mkdir -p "$folder"
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: -d "$folder" "llama-cpp-python==$version"
  tar -xzf "$folder"/llama_cpp_python-*.tar.gz -C "$folder" --strip-components=1
  cmake -S "$folder/vendor/llama.cpp" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DGGML_NATIVE=ON \
    -DGGML_OPENMP=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF >"$folder/cmake.log"
  ninja -C "$folder/build" -j "${JOBS:-$(nproc)}" llama-completion llama-mtmd-cli llama-quantize >"$folder/ninja.log"
  echo "$version" >"$folder/complete"
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for variant in a b c; do
  "$python" "$shared/reference/tiny_omni.py" build "$work/$variant" --variant $variant --seed 0 >/dev/null
done
"$python" "$here/tests/reference/check_llama.py" --omni "$omni" --llama "$folder/build/bin" "$work"/{a,b,c}

# Quantisers: errors of the weights; divergence of five checkpoints' answers.
checks=$here/tests/reference llama=$folder/build/bin models=()
"$python" "$checks/compare_quantisers.py" --peer "$llama/llama-quantize" --omni "$omni"
for seed in 0 1 2 3 4; do
  [ $seed -eq 0 ] || "$python" "$shared/reference/tiny_omni.py" build "$work/c" --variant c --seed $seed >/dev/null
  "$omni" convert "$work/c" -o "$work" --name "c$seed" --type f32 --parts thinker >/dev/null
  models+=("$work/c$seed-f32.gguf")
done
"$python" "$checks/compare_divergence.py" --llama "$llama" --omni "$omni" --tool "${omni%/*}/divergence" --corpus "$here/docs/formats.md" "${models[@]}"
