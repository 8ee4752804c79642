#!/usr/bin/env bash
# The main jobs on what ships with the repository: a picture and a spoken question in, text and speech out; more questions; a text said aloud.
# usage: demo.sh OMNI
set -eu
cd "$(dirname "$0")/.."
omni=$1
show() {                                # the command, then what it prints
    echo "\$ $omni $*" | sed -E "s/-p ([^-]*[^- ])/-p '\1'/"
    "$omni" "$@"
}
show run -m models/omni-tiny --image models/media/picture.jpg --audio models/media/question.ogg --greedy -o demo.wav
echo "speech: demo.wav, $(($(stat -c %s demo.wav) / 48)) ms of 24 kHz mono sound"
show run -m models/omni-tiny --audio models/media/question.ogg -p 'Write down the words.' --greedy
show run -m models/omni-tiny -p 'What is seven plus five?' --greedy
show speak -m models/omni-tiny -p 'Hello, my name is Omni, and I am very small.' --voice chelsie -o hello.wav
echo "speech: hello.wav, $(($(stat -c %s hello.wav) / 48)) ms"
