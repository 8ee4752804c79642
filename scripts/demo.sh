#!/usr/bin/env bash
# The main jobs on what ships with the repository: a picture and a spoken question in, text and speech out; a text said in a trained voice.
# usage: demo.sh OMNI
set -eu
cd "$(dirname "$0")/.."
omni=$1
set -- run --model models/tiny --image models/media/picture.jpg --audio models/media/question.ogg -p 'Answer the question.' --greedy --max-tokens 24 --max-frames 60
echo "\$ $omni run --model models/tiny --image models/media/picture.jpg --audio models/media/question.ogg \\"
echo "    -p 'Answer the question.' --greedy --max-tokens 24 --max-frames 60 -o demo.wav"
"$omni" "$@" -o demo.wav
echo "speech: demo.wav, $(($(stat -c %s demo.wav) / 48)) ms of 24 kHz mono sound (the tiny model's weights are random: text and sound are noise)"
echo "\$ omni speak -m models/omni-tiny -p 'Hello, my name is Omni, and I am very small.' --voice chelsie -o hello.wav"
"$omni" speak -m models/omni-tiny -p 'Hello, my name is Omni, and I am very small.' --voice chelsie -o hello.wav
echo "speech: hello.wav, $(($(stat -c %s hello.wav) / 48)) ms (this model's voices are trained)"
