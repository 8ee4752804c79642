#!/usr/bin/env bash
# Runs every libFuzzer target of tests/fuzz for a while, under AddressSanitizer and UndefinedBehaviorSanitizer.
#
#   scripts/fuzz.sh [-t SECONDS] [-j JOBS] [-k] [NAME...]
#
# -t  seconds a target (60)
# -j  targets at once (the number of cores)
# -k  do not build first
#
# A target is tests/fuzz/fuzz_NAME.c; all of them run when none is named. Beside it may lie
#   tests/fuzz/corpus/NAME/    small inputs to start from
#   tests/fuzz/NAME.dict       a dictionary of tokens
#   tests/fuzz/NAME.options    more libFuzzer options, one line (such as -max_len=20000)
# What a run discovers is kept in build-fuzz/corpus/NAME for the next one, inputs that fail in build-fuzz/findings.
# The exit code is 1 when any target fails: a crash, a sanitizer's report, a leak, 10 seconds or 2 GB for one input.
set -u
cd "$(dirname "$0")/.." || exit 2
seconds=60 jobs=$(nproc) build=1
while getopts t:j:k option; do
    case $option in
    t) seconds=$OPTARG ;;
    j) jobs=$OPTARG ;;
    k) build=0 ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
done
shift $((OPTIND - 1))

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for source in tests/fuzz/fuzz_*.c; do
        name=${source##*/fuzz_}
        names+=("${name%.c}")
    done
fi

if [ $build = 1 ]; then
    cmake -S . -B build-fuzz -G Ninja -DCMAKE_C_COMPILER=clang -DOMNI_FUZZ=ON -DOMNI_SANITIZE=address,undefined -DBUILD_TESTING=OFF >/dev/null &&
        ninja -C build-fuzz -j"$jobs" "${names[@]/#/fuzz_}" >build-fuzz/ninja.log || {
        grep -A12 'FAILED' build-fuzz/ninja.log >&2 || tail -30 build-fuzz/ninja.log >&2
        exit 2
    }
fi

mkdir -p build-fuzz/findings build-fuzz/logs
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_stack_use_after_return=1:allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}

fuzz() {
    local name=$1 found=build-fuzz/corpus/$1 log=build-fuzz/logs/$1.log
    local options=(-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -artifact_prefix="build-fuzz/findings/$name-")
    mkdir -p "$found"
    [ -f "tests/fuzz/$name.dict" ] && options+=(-dict="tests/fuzz/$name.dict")
    [ -f "tests/fuzz/$name.options" ] && read -r -a more <"tests/fuzz/$name.options" && options+=("${more[@]}")
    local folders=("$found")
    [ -d "tests/fuzz/corpus/$name" ] && folders+=("tests/fuzz/corpus/$name")
    if "build-fuzz/fuzz_$name" "${options[@]}" "${folders[@]}" >"$log" 2>&1; then
        local runs
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        printf '%-20s clean   %10s inputs tried, %s kept\n' "$name" "${runs:-?}" "$(find "$found" -type f | wc -l)"
    else
        printf '%-20s FAILED  (%s)\n' "$name" "$log"
        grep -m1 -A12 'ERROR: \|runtime error: \|SUMMARY: ' "$log" | sed 's/^/    /'
        grep -h 'Test unit written to' "$log" | sed 's/^/    /'
        # Small inputs are shown whole, so that a log is enough to see the failure again.
        for input in $(sed -n 's/.*Test unit written to //p' "$log"); do
            [ "$(stat -c %s "$input")" -gt 20000 ] || printf '    in base64: %s\n' "$(base64 -w0 "$input")"
        done
        return 1
    fi
}

failed=0 running=0
for name in "${names[@]}"; do
    if [ "$running" -ge "$jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    fuzz "$name" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit $failed
