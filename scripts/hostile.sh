#!/usr/bin/env bash
# Damages every kind of file that omni reads, hundreds of times each, and checks that it is used or refused cleanly
# (tests/hostile.py says what that means). Best with a build under sanitizers:
#
#   cmake -B build-asan -G Ninja -DOMNI_SANITIZE=address,undefined && ninja -C build-asan omni
#   scripts/hostile.sh build-asan/omni [-k KINDS] [-c CHECKPOINT] [options of tests/hostile.py]
#
# -k  which of gguf,quantised,sound,image,video,json,chat,imatrix,safetensors,checkpoint,bombs (default all)
# -c  a folder with a small checkpoint, whose files are damaged and converted (default: a very small one, made here)
# The last line counts: damaged files, refused, accepted, not handled cleanly.
set -u
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
omni=$1
shift
kinds=gguf,quantised,sound,image,video,json,chat,imatrix,safetensors,checkpoint,bombs checkpoint=
while [[ ${1-} = -[kc] ]]; do
    if [ "$1" = -k ]; then kinds=$2; else checkpoint=$2; fi
    shift 2
done
here=$(cd "$(dirname "$0")/.." && pwd)
tiny=$here/models/tiny data=$here/tests/data
thinker=$tiny/qwen3-omni-f16.gguf encoders=$tiny/mmproj-qwen3-omni-f16.gguf talker=$tiny/talker-qwen3-omni-f16.gguf
options=("$@")
failed=0
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
answer=(-p "What is this?" --greedy -n 2 --max-frames 2 -t 1 -c 1024)
picture=$data/media/image/baseline.jpg speech=$data/audio/speech16.wav
hear_and_see=(run -m "$thinker" --mmproj "$encoders" "${answer[@]}")

damage_with() { # FILE PROGRAM ARGUMENTS...
    local file=$1
    shift
    "$here/tests/hostile.py" "${options[@]}" "$file" -- "$@" | tee -a "$scratch/counts"
    [ "${PIPESTATUS[0]}" = 0 ] || failed=1
}

damage() { # FILE COMMAND...
    damage_with "$1" "$omni" "${@:2}"
}

damage_gguf() {
    damage "$thinker" run -m {} "${answer[@]}"
    damage "$encoders" run -m "$thinker" --mmproj {} --image "$picture" --audio "$speech" "${answer[@]}"
    damage "$talker" run -m "$thinker" --talker {} -o - "${answer[@]}"
    damage "$thinker" speak -m {} --talker "$talker" -p "Hello." --greedy --max-frames 2 -t 1 -o -
    damage "$thinker" tokenize -m {} "What is this?"
    for file in "$thinker" "$encoders" "$talker"; do
        damage "$file" quantize {} {out} q8_0
    done
    for file in "$thinker" "$encoders" "$talker" "$data/gguf/types.gguf"; do
        damage "$file" info {} --json
    done
}

damage_quantised() {
    for type in q8_0 q4_k_m; do
        "$omni" quantize "$thinker" "$scratch/$type.gguf" $type >/dev/null || { failed=1; return; }
        damage "$scratch/$type.gguf" run -m {} "${answer[@]}"
    done
    damage "$scratch/q4_k_m.gguf" quantize {} {out} q8_0 --allow-requantize
}

damage_sound() {
    for file in "$data"/audio/*.{wav,flac,m4a,mp3,ogg,opus}; do
        damage "$file" "${hear_and_see[@]}" --audio {}
    done
}

damage_image() {
    for file in "$data"/media/image/{baseline.jpg,cmyk-progressive.jpg,rgba16-interlaced.png,palette4.png,lossy-alpha.webp,animation.webp,animation.gif}; do
        damage "$file" "${hear_and_see[@]}" --image {}
    done
}

damage_video() {
    for file in "$data"/media/video/{sound.mp4,turned.mov,full-chroma.mkv,vp8-hidden.webm,vp9.webm,full-chroma.mkv.npy}; do
        damage "$file" "${hear_and_see[@]}" --video {}
    done
    damage "$data/media/video/sound.mp4" "${hear_and_see[@]}" --video {} --use-audio-in-video
}

damage_json() {
    printf '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "image", "image": "file://%s"},
 {"type": "audio", "audio_url": {"url": "data:audio/wav;base64,%s"}}, {"type": "text", "text": "What is \\u00e9 \\ud83d\\ude00?"}]},
 {"role": "assistant", "content": "That.", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]},
 {"role": "tool", "content": "3"}, {"role": "user", "content": "And?"}]\n' "$picture" "$(base64 -w0 "$data/audio/u8_8k.wav")" >"$scratch/messages.json"
    echo '[{"type": "function", "function": {"name": "f", "description": "d\u00e9", "parameters": {"type": "object", "properties":
 {"x": {"type": "array", "items": {"type": "number", "default": 1e3}}}, "required": ["x"]}}}]' >"$scratch/tools.json"
    damage "$scratch/messages.json" run -m "$thinker" --mmproj "$encoders" --messages {} "${answer[@]:2}"
    damage "$scratch/tools.json" run -m "$thinker" --tools {} "${answer[@]}"
    damage_media_json
}

# Media of every kind inside the conversation itself, and what else an object may say.
damage_media_json() {
    local kinds=() file
    data_url() { printf '"data:%s;base64,%s"' "$1" "$(base64 -w0 "$data/$2")"; }
    for file in media/image/lossy.webp media/image/animation.gif; do
        kinds+=("{\"type\": \"image_url\", \"image_url\": {\"url\": $(data_url image/any $file)}}")
    done
    kinds+=("{\"type\": \"audio\", \"audio\": $(data_url audio/ogg audio/a.ogg)}")
    kinds+=("{\"type\": \"input_audio\", \"input_audio\": {\"data\": \"$(base64 -w0 "$data/audio/a.opus")\", \"format\": \"opus\"}}")
    kinds+=("{\"type\": \"video_url\", \"video_url\": {\"url\": $(data_url video/mp4 media/video/sound.mp4)}}")
    printf '{"fps": 2.0, "use_audio_in_video": true, "tools": [{"name": "f"}], "messages": [{"role": "user", "content": [%s]}]}\n' \
        "$(IFS=,; echo "${kinds[*]}")" >"$scratch/media.json"
    damage "$scratch/media.json" run -m "$thinker" --mmproj "$encoders" --messages {} "${answer[@]:2}"
}

# What is typed, through a pipe.
damage_chat() {
    printf 'Hello \xc3\xa9.\n/image %s\nWhat is this?\n/undo\n/reset\n\n/audio %s\nAnd \xf0\x9f\x98\x80?\n' "$picture" "$speech" >"$scratch/typed.txt"
    # Its messages quote what was typed as it was typed.
    damage_with "$scratch/typed.txt" bash -c 'set -o pipefail; "$0" "$@" <{} 2>&1 >/dev/null | tr -cd "[:print:]\n" >&2' \
        "$omni" "${hear_and_see[@]:0:5}" "${answer[@]:2}"
}

damage_imatrix() {
    cp "$here/README.md" "$scratch/corpus.txt"
    "$omni" imatrix -m "$thinker" -f "$scratch/corpus.txt" --pieces 2 -t 1 -o "$scratch/imatrix.gguf" >/dev/null || { failed=1; return; }
    damage "$scratch/imatrix.gguf" quantize "$thinker" {out} q4_0 --imatrix {}
    # The older format: counts and floats without names of their own.
    python3 - "$scratch/old.dat" <<'PYTHON' || { failed=1; return; }
import struct, sys
names = [b"blk.%d.%s.weight" % (layer, part) for layer in range(2) for part in (b"attn_q", b"attn_k", b"attn_v")]
entries = b"".join(struct.pack("<i", len(n)) + n + struct.pack("<ii64f", 3, 64, *range(64)) for n in names)
open(sys.argv[1], "wb").write(struct.pack("<i", len(names)) + entries + struct.pack("<i", 3))
PYTHON
    damage "$scratch/old.dat" quantize "$thinker" {out} q4_0 --imatrix {}
    damage "$scratch/corpus.txt" imatrix -m "$thinker" -f {} --pieces 1 -t 1 -o {out}
}

damage_safetensors() {
    damage "$data/gguf/weights.safetensors" info {}
    for file in "$data"/gguf/shards/model{-00001-of-00002.safetensors,.safetensors.index.json}; do
        damage "$file" info {dir} --json
    done
}

damage_checkpoint() {
    if [ -z "$checkpoint" ]; then
        checkpoint=$scratch/checkpoint
        python3 "$here/tests/micro_checkpoint.py" "$checkpoint" || { failed=1; return; }
    fi
    # What tokenizer.json holds is read from these when it is missing.
    mkdir "$scratch/separate"
    cp -s "$(realpath "$checkpoint")"/* "$scratch/separate/"
    rm -f "$scratch/separate/tokenizer.json"
    for file in "$checkpoint"/{config.json,generation_config.json,{,video_}preprocessor_config.json,tokenizer.json,chat_template.jinja} \
        "$scratch/separate"/{tokenizer_config.json,vocab.json,merges.txt} "$checkpoint"/model*.index.json "$checkpoint"/model*.safetensors; do
        [ -f "$file" ] && damage "$file" convert {dir} -o {out} -t 1
    done
}

# Not damaged but dear: small files that stand for a lot. Sanitizers take a multiple of time and memory.
damage_bombs() {
    local tool=${omni%/*}/media_cost scale=()
    nm "$tool" 2>/dev/null | grep -q __asan_init && scale=(--seconds 20 --megabytes 4096)
    "$here/tests/bombs.py" "$tool" "${scale[@]}" || failed=1
}

for kind in ${kinds//,/ }; do
    "damage_$kind"
done
awk -F'[:,] ' '/ damaged files, / { d += $(NF - 4); r += $(NF - 3); a += $(NF - 2); n += $(NF - 1) } END {
    printf "%d damaged files, %d refused, %d accepted, %d not handled cleanly\n", d, r, a, n }' "$scratch/counts"
exit $failed
