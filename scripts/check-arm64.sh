#!/bin/sh
# Builds the CPU operations for 64-bit ARM and runs their tests under an emulator.
# Needs cmake, ninja, gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user; installs nothing.
set -eu
cd "$(dirname "$0")/.."
for tool in cmake ninja aarch64-linux-gnu-gcc qemu-aarch64; do
    if ! command -v "$tool" >/dev/null; then
        echo "check-arm64: $tool is missing; apt-get install cmake ninja-build gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" >&2
        exit 1
    fi
done
build=${BUILD_DIR:-build-arm64}
cmake -S . -B "$build" -G Ninja -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake -DOMNI_KERNELS_ONLY=ON
ninja -C "$build"
# A level that silently fell back to plain C would pass every test. The emulator's default processor has them all.
levels=$(qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/kernels" --rounds 1 | cut -d' ' -f1 | uniq | tr '\n' ' ')
if [ "$levels" != "generic neon dotprod i8mm " ]; then
    echo "check-arm64: the kernel tool lists the levels $levels" >&2
    exit 1
fi
ctest --test-dir "$build" --output-on-failure
