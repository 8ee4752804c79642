#!/usr/bin/env bash
# Installs a build into a temporary folder and checks what others get: the example builds through pkg-config against the shared and the
# static library and speaks, libraries export omni_* alone, manual pages and completion are there, headers compile as C and C++. usage: check-install.sh [BUILD_DIR]
set -eu
cd "$(dirname "$0")/.."
build=${1:-build} models=models/tiny
cc=${CC:-cc}
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
passed=0
ok() {
  passed=$((passed + 1))
  echo "ok: $*"
}
die() {
  echo "check-install: $*" >&2
  echo "$passed passed, 1 failed"
  exit 1
}

cmake --install "$build" --prefix "$prefix" >/dev/null || die "cmake --install fails"
pc=$(find "$prefix" -name omni.pc)
[ -n "$pc" ] || die "omni.pc is not installed"
export PKG_CONFIG_PATH=${pc%/*}${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
[ "$("$prefix/bin/omni" --version)" = "omni $(pkg-config --modversion omni)" ] || die "omni --version and omni.pc disagree"
ok "the program and its version"

for command in "" $("$prefix/bin/omni" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
  page=$prefix/share/man/man1/omni${command:+-$command}.1
  # shellcheck disable=SC2086
  "$prefix/bin/omni" $command --help=man | cmp -s - "$page" || die "${page##*/} is not installed, or not the program's"
done
for file in bash-completion/completions/omni zsh/site-functions/_omni fish/vendor_completions.d/omni.fish; do
  grep -q -e --max-tokens -e max-tokens "$prefix/share/$file" || die "$file is not installed, or empty"
done
ok "manual pages and completion scripts"

wav_is_good() { # a WAV header whose size field is the file's, and some sound
  local size riff
  size=$(stat -c %s "$1") riff=$(od -An -tu4 -j4 -N4 "$1" | tr -d ' ')
  [ "$(head -c 4 "$1")" = RIFF ] && [ "$size" -gt 1000 ] && [ $((riff + 8)) = "$size" ]
}
for package in omni omni-static; do
  # shellcheck disable=SC2046
  "$cc" -Wall -Wextra -Werror examples/speak_to_file.c -o "$prefix/$package" $(pkg-config --cflags --libs $package) || die "the example does not build with $package"
  LD_LIBRARY_PATH=${pc%/pkgconfig/*} "$prefix/$package" $models/qwen3-omni-f16.gguf $models/talker-qwen3-omni-f16.gguf "How are you?" "$prefix/$package.wav" >"$prefix/$package.txt" ||
    die "the example fails with $package"
  wav_is_good "$prefix/$package.wav" || die "the example's WAV of $package is damaged"
  # shellcheck disable=SC2046
  "$cc" -Wall -Wextra -Werror examples/many_at_once.c -o "$prefix/many-$package" $(pkg-config --cflags --libs $package) || die "many_at_once does not build with $package"
  ok "the examples with $package"
done
cmp -s "$prefix/omni.wav" "$prefix/omni-static.wav" || die "the shared and the static library speak differently"
ok "both speak the same"
ldd "$prefix/omni-static" | grep -q libomni && die "the program built with omni-static needs libomni.so"
ok "omni-static needs no libomni.so"

names() { awk 'NF == 3 { print $3 }' | grep -v '^omni_' || true; }
[ -z "$(nm -D --defined-only "${pc%/pkgconfig/*}"/libomni.so | names)" ] || die "libomni.so exports: $(nm -D --defined-only "${pc%/pkgconfig/*}"/libomni.so | names | tr '\n' ' ')"
[ -z "$(nm -g --defined-only "${pc%/pkgconfig/*}"/libomni.a | names)" ] || die "libomni.a defines: $(nm -g --defined-only "${pc%/pkgconfig/*}"/libomni.a | names | tr '\n' ' ')"
ok "only omni_* names are exported"
declared=$(sed -nE 's/^OMNI_API .*[ *](omni_[a-z0-9_]+)\(.*/\1/p' include/omni.h | sort)
exported=$(nm -D --defined-only "${pc%/pkgconfig/*}"/libomni.so | awk '{ print $3 }' | sort)
[ "$declared" = "$exported" ] || die "declared and exported functions differ: $(diff <(echo "$declared") <(echo "$exported") | tr '\n' ' ')"
ok "every function of omni.h is exported, and no other"

echo '#include <omni.h>' >"$prefix/header.c"
# shellcheck disable=SC2046
"$cc" -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only "$prefix/header.c" $(pkg-config --cflags omni) || die "omni.h is no C99"
if command -v c++ >/dev/null; then
  # shellcheck disable=SC2046
  c++ -x c++ -std=c++11 -Wall -Wextra -Werror -fsyntax-only "$prefix/header.c" $(pkg-config --cflags omni) || die "omni.h is no C++"
fi
ok "omni.h compiles alone"
echo "$passed passed, 0 failed"
