#!/usr/bin/env bash
# The main job on what ships with the repository: a picture and a spoken question in, text and speech out. usage: demo.sh OMNI
set -eu
cd "$(dirname "$0")/.."
omni=$1
set -- run --model models/tiny --image models/media/picture.jpg --audio models/media/question.ogg -p 'Answer the question.' --greedy --max-tokens 24 --max-frames 60
echo "\$ $omni run --model models/tiny --image models/media/picture.jpg --audio models/media/question.ogg \\"
echo "    -p 'Answer the question.' --greedy --max-tokens 24 --max-frames 60 -o demo.wav"
"$omni" "$@" -o demo.wav
echo "speech: demo.wav, $(($(stat -c %s demo.wav) / 48)) ms of 24 kHz mono sound (the tiny model's weights are random: text and sound are noise)"
