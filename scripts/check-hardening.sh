#!/usr/bin/env bash
# usage: check-hardening.sh PROGRAM SHARED_LIBRARY STATIC_LIBRARY   Whether the hardening flags of CMakeLists.txt are in what was built.
set -eu
export LC_ALL=C
program=$1 shared=$2 static=$3 failed=0

check() { # NAME FILE COMMAND...
  local name=$1 file=$2
  shift 2
  if ! "$@" >/dev/null; then
    echo "hardening: $file: no $name"
    failed=1
  fi
}
has() { # PATTERN FILE READELF_FLAGS...
  local pattern=$1 file=$2
  shift 2
  readelf "$@" -W "$file" 2>/dev/null | grep -E "$pattern"
}
lacks() { ! has "$@"; }
calls() { # PATTERN FILE  a symbol that the file takes from elsewhere
  nm -u "$2" 2>/dev/null | grep -E "$1"
}

check "position independence (PIE)" "$program" has 'Type: +DYN' "$program" -h
check "position independence (PIE)" "$program" has 'FLAGS_1.*PIE' "$program" -d
for f in "$program" "$shared"; do
  check "read-only relocations (-z relro)" "$f" has 'GNU_RELRO' "$f" -l
  check "immediate binding (-z now)" "$f" has 'BIND_NOW|FLAGS.*NOW' "$f" -d
  check "separation of data and code (-z noexecstack)" "$f" has 'GNU_STACK.* RW +0x' "$f" -l
  check "separation of data and code (a segment is both writable and executable)" "$f" lacks 'LOAD.* RWE' "$f" -l
  check "search path free of surprises (it has RPATH)" "$f" lacks '\((RPATH|RUNPATH)\)' "$f" -d
done
for f in "$program" "$shared" "$static"; do
  check "stack protector (-fstack-protector-strong)" "$f" calls '__stack_chk_fail' "$f"
  check "checked library calls (-D_FORTIFY_SOURCE)" "$f" calls '__(snprintf|memcpy|vsnprintf|read|fread|fprintf)_chk' "$f"
done
if [ "$(uname -m)" = x86_64 ]; then
  # On the objects: what is linked is marked only where the C library's own start-up files are, too.
  check "indirect branch tracking and shadow stack (-fcf-protection)" "$static" has 'x86 feature: IBT, SHSTK' "$static" -n
  # Probing of large frames (-fstack-clash-protection): every object whose frames exceed a page has the loop or the probes: orq $0, (%rsp).
  instruction=or
  readelf -p .comment "$program" | grep -q clang && instruction=mov
  check "stack clash protection (-fstack-clash-protection)" "$program" bash -c 'objdump -d --no-show-raw-insn "$1" | grep -E "$2[lq] +[$]0x0,[(]%rsp[)]"' - "$program" "$instruction"
fi
[ "$failed" = 0 ] && echo "hardening: all there"
exit "$failed"
