#!/usr/bin/env bash
# Makes what `make demo` runs on: a tiny model with random weights, a picture, a spoken question. usage: make-demo-files.sh OMNI SHARED PYTHON
# Needs espeak-ng, ffmpeg and the Python environment of scripts/python-env.sh. The results are committed; this says how they came to be.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
omni=$1 shared=$2 python=$3
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$here/models/tiny" "$here/models/media"
"$python" "$shared/reference/tiny_omni.py" build "$scratch/checkpoint" --variant a --seed 1
"$omni" convert "$scratch/checkpoint" -o "$here/models/tiny" --type f16
cp "$shared/tokenizer/NOTICE" "$here/models/tiny/NOTICE"
"$python" - "$here/models/media/picture.jpg" <<'EOF'
import sys
from PIL import Image, ImageDraw
im = Image.new("RGB", (320, 224), (150, 200, 240))
d = ImageDraw.Draw(im)
d.rectangle((0, 150, 320, 224), fill=(90, 150, 70))
d.ellipse((230, 20, 280, 70), fill=(250, 220, 80))
d.rectangle((60, 90, 160, 180), fill=(190, 90, 70))
d.polygon([(50, 90), (170, 90), (110, 40)], fill=(120, 50, 40))
d.rectangle((95, 130, 125, 180), fill=(80, 50, 30))
im.save(sys.argv[1], quality=85)
EOF
espeak-ng -v en-us -w "$scratch/question.wav" "What can you see in this picture?"
ffmpeg -v error -y -i "$scratch/question.wav" -c:a libvorbis -q:a 2 "$here/models/media/question.ogg"
