#!/bin/sh
# Runs the tests of the CPU operations on emulated x86-64 processors: without AVX (plain C), and with AVX2 but not AVX-512. An
# instruction that such a processor lacks ends the test. Needs cmake, ninja and qemu-user; installs nothing.
set -eu
cd "$(dirname "$0")/.."
for tool in cmake ninja qemu-x86_64; do
    if ! command -v "$tool" >/dev/null; then
        echo "check-old-cpu: $tool is missing; apt-get install cmake ninja-build qemu-user" >&2
        exit 1
    fi
done
build=${BUILD_DIR:-build-old-cpu}
cmake -S . -B "$build" -G Ninja -DOMNI_KERNELS_ONLY=ON
ninja -C "$build"
expect() {
    echo "$1"
    out=$(qemu-x86_64 -cpu "$1" "$build/test_ops" 2>/dev/null) || { echo "check-old-cpu: test_ops fails on $1: $out" >&2; exit 1; }
    case $out in
    "$2 levels, 0 failures") ;;
    *) echo "check-old-cpu: on $1 expected $2 levels: $out" >&2; exit 1 ;;
    esac
    qemu-x86_64 -cpu "$1" "$build/test_rows_alone" 2>/dev/null
    qemu-x86_64 -cpu "$1" "$build/test_sampling" 2>/dev/null
}
expect Nehalem 1
expect Haswell 2
