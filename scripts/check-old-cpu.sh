#!/bin/sh
# Runs the tests of the CPU operations, and the whole program when build/omni is there, on emulated x86-64 processors: without AVX (plain C),
# and with AVX2 but not AVX-512. An instruction that such a processor lacks ends a test. Needs cmake, ninja and qemu-user; installs nothing.
set -eu
cd "$(dirname "$0")/.."
if [ "$(uname -m)" != x86_64 ]; then
    echo "check-old-cpu: left out, this is no x86-64 processor"
    exit 0
fi
for tool in cmake ninja qemu-x86_64; do
    if ! command -v "$tool" >/dev/null; then
        echo "check-old-cpu: $tool is missing; apt-get install cmake ninja-build qemu-user" >&2
        exit 1
    fi
done
build=${BUILD_DIR:-build-old-cpu}
cmake -S . -B "$build" -G Ninja -DOMNI_KERNELS_ONLY=ON
ninja -C "$build"
answer() {
    "$@" build/omni run -m models/tiny/qwen3-omni-f16.gguf --mmproj models/tiny/mmproj-qwen3-omni-f16.gguf --image models/media/picture.jpg \
        -p "What is this?" --greedy --ignore-eos -n 12 2>/dev/null
}
# expect PROCESSOR COUNT: test_ops must find kernels for that many instruction sets.
expect() {
    echo "$1"
    run="qemu-x86_64 -cpu $1 $build"
    out=$($run/test_ops 2>/dev/null) || { echo "check-old-cpu: test_ops fails on $1: $out" >&2; exit 1; }
    case $out in
    "$2 instruction sets, 0 failures") ;;
    *) echo "check-old-cpu: on $1 expected kernels for $2 instruction sets: $out" >&2; exit 1 ;;
    esac
    for test in test_rows_alone test_sampling "kernels --rounds 20"; do
        $run/$test >"$build/log" 2>&1 || { tail -n 20 "$build/log"; echo "check-old-cpu: $test fails on $1" >&2; exit 1; }
    done
    if [ -x build/omni ] && [ "$(answer qemu-x86_64 -cpu "$1")" != "$(answer env)" ]; then
        echo "check-old-cpu: omni answers otherwise on $1" >&2
        exit 1
    fi
}
expect Nehalem 1
expect Haswell 2
echo "2 passed, 0 failed"
