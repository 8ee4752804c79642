#!/usr/bin/env bash
# usage: setup.sh [build|test|sanitize|clang|fuzz|parity|arm64|old-cpu|cuda|format|page|deploy|image|node|all]...   (default: build)
# Installs the Debian or Ubuntu packages that these need and that are missing. Does nothing, quickly, when all are there.
set -eu

build=(
  gcc libc6-dev ninja-build cmake pkg-config
  libavformat-dev libavcodec-dev libavfilter-dev libavutil-dev libswscale-dev
  libjpeg-dev libpng-dev zlib1g-dev libwebp-dev libgif-dev libheif-dev libsoxr-dev libssl-dev libwebsockets-dev libcurl4-openssl-dev libjansson-dev libutf8proc-dev
)
test=(g++ binutils libcmocka-dev python3 ffmpeg openssl)
clang=(clang g++ binutils)
sanitize=("${test[@]}")
fuzz=(clang libclang-rt-dev)
parity=(git python3-venv ffmpeg espeak-ng sox)
arm64=(gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
old_cpu=(qemu-user)
cuda=(g++ python3-venv libcmocka-dev)
format=(clang-format)
node=(nodejs npm openssl)
page=(nodejs npm chromium ffmpeg fonts-dejavu-core)
deploy=(haproxy prometheus systemd strace python3-venv)
image=(debootstrap python3)

packages=()
for what in "${@:-build}"; do
  case $what in
    format) packages+=("${format[@]}"); continue ;;
    deploy) packages+=("${deploy[@]}"); continue ;;
    image) packages+=("${image[@]}"); continue ;;
    page) packages+=("${page[@]}"); continue ;;
    node) packages+=("${node[@]}"); continue ;;
    build) ;;
    test) packages+=("${test[@]}") ;;
    sanitize) packages+=("${sanitize[@]}") ;;
    clang) packages+=("${clang[@]}") ;;
    fuzz) packages+=("${fuzz[@]}") ;;
    parity) packages+=("${parity[@]}") ;;
    arm64) packages+=("${arm64[@]}") ;;
    old-cpu) packages+=("${old_cpu[@]}") ;;
    cuda) packages+=("${cuda[@]}") ;;
    all) packages+=("${test[@]}" "${clang[@]}" "${fuzz[@]}" "${parity[@]}" "${arm64[@]}" "${old_cpu[@]}" "${cuda[@]}" "${format[@]}" "${page[@]}" "${deploy[@]}" "${image[@]}" "${node[@]}") ;;
    *) echo "setup: $what is none of build, test, sanitize, clang, fuzz, parity, arm64, old-cpu, cuda, format, page, node, deploy, image, all" >&2; exit 2 ;;
  esac
  packages+=("${build[@]}")
done
# Since 1.16 libheif has its decoders in packages of their own.
case $(. /etc/os-release 2>/dev/null && echo "${ID-}${VERSION_ID-}") in
  debian1[0-2] | ubuntu2[0-2].*) ;;
  *) packages+=(libheif-plugin-aomdec libheif-plugin-libde265) ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "setup: not a Debian or Ubuntu system; these packages, or their like, must be there: ${packages[*]}" >&2
  exit 0
fi

# A name may be a virtual package or differ between releases: "have" asks for what provides it.
installed=$(dpkg-query -W -f='${db:Status-Status} ${Package} ${Provides}\n' | sed -n 's/^installed //p' | tr ' ,' '\n\n' | sort -u)
missing=()
for p in $(printf '%s\n' "${packages[@]}" | sort -u); do
  case $p in
    libclang-rt-dev) grep -qE '^libclang-rt-[0-9]+-dev$|^libclang-common-1[0-3]-dev$' <<<"$installed" || missing+=("$p") ;;
    *) grep -qxF "$p" <<<"$installed" || missing+=("$p") ;;
  esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "setup: installing ${missing[*]}"
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root, or install sudo; missing: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
# The sanitizers' runtime is named after clang's version.
for i in "${!missing[@]}"; do
  if [ "${missing[$i]}" = libclang-rt-dev ]; then
    version=$(apt-cache depends clang | sed -n 's/.*Depends: clang-\([0-9]*\)$/\1/p' | head -n 1)
    if apt-cache show "libclang-rt-$version-dev" >/dev/null 2>&1; then missing[i]="libclang-rt-$version-dev"; else unset 'missing[i]'; fi
  fi
done
[ ${#missing[@]} -eq 0 ] || "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
