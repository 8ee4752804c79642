#!/usr/bin/env bash
# Damages every kind of file that omni reads, hundreds of times each, and checks that it is used or refused cleanly
# (tests/hostile.py says what that means). Best with a build under sanitizers:
#
#   cmake -B build-asan -G Ninja -DOMNI_SANITIZE=address,undefined && ninja -C build-asan omni
#   scripts/hostile.sh build-asan/omni [-c CHECKPOINT] [options of tests/hostile.py]
#
# -c  a folder with a small checkpoint, whose files are damaged, too, and converted
set -u
[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
omni=$1
shift
checkpoint=
[ "${1-}" = -c ] && checkpoint=$2 && shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
tiny=$here/models/tiny data=$here/tests/data
thinker=$tiny/qwen3-omni-f16.gguf encoders=$tiny/mmproj-qwen3-omni-f16.gguf talker=$tiny/talker-qwen3-omni-f16.gguf
options=("$@")
failed=0

damage() { # FILE COMMAND...
    local file=$1
    shift
    "$here/tests/hostile.py" "${options[@]}" "$file" -- "$omni" "$@" || failed=1
}
answer=(-p "What is this?" --greedy -n 2 --max-frames 2 -t 1 -c 1024)
picture=$data/media/image/baseline.jpg

damage "$thinker" run -m {} "${answer[@]}"
damage "$encoders" run -m "$thinker" --mmproj {} --image "$picture" --audio "$data/audio/speech16.wav" "${answer[@]}"
damage "$talker" run -m "$thinker" --talker {} -o - "${answer[@]}"
for file in "$thinker" "$encoders" "$talker" "$data/gguf/types.gguf"; do
    damage "$file" info {} --json
done
for file in "$data"/audio/*.{wav,flac,m4a,mp3,ogg,opus}; do
    damage "$file" run -m "$thinker" --mmproj "$encoders" --audio {} "${answer[@]}"
done
for file in "$data"/media/image/{baseline.jpg,cmyk-progressive.jpg,rgba16-interlaced.png,palette4.png,lossy-alpha.webp,animation.webp,animation.gif}; do
    damage "$file" run -m "$thinker" --mmproj "$encoders" --image {} "${answer[@]}"
done
for file in "$data"/media/video/{sound.mp4,turned.mov,full-chroma.mkv,vp8-hidden.webm,vp9.webm,full-chroma.mkv.npy}; do
    [ -f "$file" ] && damage "$file" run -m "$thinker" --mmproj "$encoders" --video {} "${answer[@]}"
done
if [ -n "$checkpoint" ]; then
    for file in "$checkpoint"/{config.json,generation_config.json,preprocessor_config.json,tokenizer.json,tokenizer_config.json,vocab.json,merges.txt} \
        "$checkpoint"/model*.index.json "$checkpoint"/model*.safetensors; do
        [ -f "$file" ] && damage "$file" convert {dir} -o {out}
    done
fi
exit $failed
