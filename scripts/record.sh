#!/usr/bin/env bash
# Says 20 of the held-out sentences (training/test-sentences.txt), voices in turn, into docs/sounds, and writes docs/listening.md.
# usage: record.sh OMNI   (needs ffmpeg, for small files, and sox, for the spectrogram)
set -eu
cd "$(dirname "$0")/.."
omni=$1 out=docs/sounds
voices=(chelsie ethan aiden)
mkdir -p $out
rm -f $out/*.opus $out/*.png
mapfile -t sentences < <(awk 'NR % 3 == 2' training/test-sentences.txt)
{
  cat <<'TEXT'
# A listener's test

Twenty sentences that [omni-tiny](../models/omni-tiny/README.md) was not trained on, as it says them: write down what you hear, then compare. No file was
chosen or tried twice: `scripts/record.sh build/omni` makes them all again (every third of `training/test-sentences.txt`, seeds 1 to 20). A program,
pocketsphinx with its general model, got 33 words in 100 wrong on these files (2026-11-27); how does a listener do?

| | voice | sound |
|---|---|---|
TEXT
  for i in "${!sentences[@]}"; do
    n=$(printf '%02d' $((i + 1)))
    echo "| $n | ${voices[i % 3]} | [$n.opus](sounds/$n.opus) |"
  done
  printf '\n![The first one as a spectrogram: time to the right, up to 12 kHz](sounds/01.png)\n\n<details><summary>What they say</summary>\n\n'
  for i in "${!sentences[@]}"; do echo "$((i + 1)). ${sentences[i]}"; done
  printf '\n</details>\n'
} >docs/listening.md
wav=$(mktemp --suffix .wav)
trap 'rm -f "$wav"' EXIT
for i in "${!sentences[@]}"; do
  n=$(printf '%02d' $((i + 1)))
  "$omni" speak -m models/omni-tiny -p "${sentences[i]}" --voice "${voices[i % 3]}" --seed $((i + 1)) -o "$wav" 2>/dev/null
  ffmpeg -nostdin -v error -y -i "$wav" -c:a libopus -b:a 24k -fflags +bitexact -flags +bitexact "$out/$n.opus"
  [ "$i" -gt 0 ] || sox "$wav" -n spectrogram -x 640 -y 129 -z 80 -r -o $out/01.png
done
