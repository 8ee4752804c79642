"""Makes tests/data/audio: small sound files in every encoding with what librosa reads from them, log-mel features and audio
embeddings of the reference implementation, and the encoder that gives them (tiny_omni.py's variant a, seed 0).

    make_audio_vectors.py CHECKPOINT_A OUT_DIR

Needs ffmpeg, sox, espeak-ng, and Python with torch, transformers (>= 5.17), librosa, soundfile, safetensors, gguf.
"""
import subprocess
import sys
import warnings
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from safetensors.numpy import save_file
from transformers import Qwen3OmniMoeForConditionalGeneration, WhisperFeatureExtractor

import audio_gguf

warnings.filterwarnings("ignore")
checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
work = out / "work"
work.mkdir(exist_ok=True)


def sh(line):
    subprocess.run(line, shell=True, check=True, cwd=work, stdout=subprocess.DEVNULL)


# ---- files and what the usual loader makes of them ----
sh('espeak-ng -w s.wav "Never odd or even, said the quick brown fox to the lazy dog, and counted to seven."')
sh("sox s.wav -r 44100 -b 16 l.wav trim 0.42 0.12 && sox s.wav -r 44100 -b 16 r.wav trim 1.5 0.12 && sox -M l.wav r.wav -b 24 base.wav")
encode = "ffmpeg -v error -y -bitexact -i base.wav -map_metadata -1 -bitexact "
video = "ffmpeg -v error -y -bitexact -f lavfi -i testsrc=size=32x32:rate=10:duration=0.12 -i base.wav -map_metadata -1 -bitexact "
media = {
    "s24.wav": "cp base.wav OUT", "s16_22k.wav": "sox base.wav -r 22050 -b 16 OUT", "u8_8k.wav": "sox base.wav -r 8000 -b 8 OUT",
    "f32_11k.wav": "sox base.wav -r 11025 -e float -b 32 OUT", "s24.flac": encode + "OUT", "a.mp3": encode + "-b:a 96k OUT",
    "a.ogg": encode + "-c:a libvorbis OUT", "a.opus": encode + "-c:a libopus -b:a 64k OUT", "a.m4a": encode + "-c:a aac -b:a 64k OUT",
    "v.mp4": video + "-c:v mpeg4 -c:a aac -b:a 64k OUT", "v.mov": video + "-c:v mpeg4 -c:a aac -b:a 64k OUT",
    "v.webm": video + "-c:v libvpx -c:a libopus -b:a 64k OUT", "v.mkv": video + "-c:v mpeg4 -c:a libvorbis OUT",
}
sounds = {}
for name, command in media.items():
    sh(command.replace("OUT", str((out / name).resolve())))
    sounds[name] = librosa.load(out / name, sr=16000)[0].astype(np.float32)
sh("ffmpeg -v error -y -bitexact -f lavfi -i testsrc=size=32x32:rate=10:duration=0.12 -an -c:v mpeg4 " + str((out / "silent.mp4").resolve()))
save_file(sounds, out / "sounds.safetensors")

# ---- log-mel ----
sh("sox s.wav -r 16000 -b 16 -c 1 speech16.wav trim 0.3 0.5")
speech = soundfile.read(work / "speech16.wav", dtype="float32")[0]
soundfile.write(out / "speech16.wav", speech, 16000, subtype="PCM_16")
pair = [speech, speech[:4961]]


def features(sounds, **config):
    config = dict(feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=300, padding_value=0.0, return_attention_mask=True) | config
    got = WhisperFeatureExtractor(**config)(sounds, sampling_rate=16000, padding=True, truncation=False, return_attention_mask=True, return_tensors="pt")
    return got["input_features"], got["attention_mask"]


pair_features, pair_mask = features(pair)
vectors = {"pair.features": pair_features, "pair.mask": pair_mask.float(), "alone.features": features(pair[1:])[0],
           "odd.features": features(pair[1:], n_fft=399, hop_length=200, feature_size=40)[0],
           "even.features": features(pair[1:], n_fft=264, hop_length=132, feature_size=20)[0]}

# ---- embeddings ----
audio_gguf.write(checkpoint, out / "encoder.gguf")
torch.set_grad_enabled(False)
model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()


def embeddings(features, mask):
    return model.thinker.get_audio_features(features, mask).last_hidden_state


def made_up(clips):
    """Features anyone can make again: value i of a clip, counted frame by frame, is the top of i * 2654435761 modulo 2^32."""
    longest = max(clips)
    f, m = torch.zeros(len(clips), 128, longest), torch.zeros(len(clips), longest, dtype=torch.long)
    for k, frames in enumerate(clips):
        i = np.arange(frames * 128, dtype=np.uint64)
        x = ((i * np.uint64(2654435761)) & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**31 - 1
        f[k, :, :frames] = torch.from_numpy(x.astype(np.float32).reshape(frames, 128).T)
        m[k, :frames] = 1
    return f, m


vectors["pair.embeds"] = embeddings(pair_features, pair_mask)
vectors["windows.embeds"] = embeddings(*made_up([930, 205, 100]))
vectors["short.embeds"] = embeddings(*made_up([7, 99, 31]))
save_file({k: np.ascontiguousarray(v.numpy().astype(np.float32)) for k, v in vectors.items()}, out / "vectors.safetensors")
subprocess.run(["rm", "-r", str(work)], check=True)
