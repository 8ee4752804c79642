#!/usr/bin/env bash
# The main job on what ships with the repository: a picture and a spoken question in, text and speech out. usage: demo.sh OMNI
set -eu
cd "$(dirname "$0")/.."
omni=$1 models=models/tiny
echo "\$ omni run --model $models/qwen3-omni-f16.gguf --mmproj $models/mmproj-qwen3-omni-f16.gguf --talker $models/talker-qwen3-omni-f16.gguf \\"
echo "    --image models/media/picture.jpg --audio models/media/question.ogg -p 'Answer the question.' --greedy --max-tokens 24 --max-frames 60 -o demo.wav"
"$omni" run --model $models/qwen3-omni-f16.gguf --mmproj $models/mmproj-qwen3-omni-f16.gguf --talker $models/talker-qwen3-omni-f16.gguf \
  --image models/media/picture.jpg --audio models/media/question.ogg -p 'Answer the question.' --greedy --max-tokens 24 --max-frames 60 -o demo.wav
echo "speech: demo.wav, $(($(stat -c %s demo.wav) / 48)) ms of 24 kHz mono sound (the tiny model's weights are random: text and sound are noise)"
