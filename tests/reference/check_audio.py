"""Compares the sound path live with the reference: files of every kind with librosa.load, log-mel features with
WhisperFeatureExtractor (and with the same analysis in float64), embeddings with the audio tower of each checkpoint.

    check_audio.py AUDIO_TRACE CHECKPOINT...          (AUDIO_TRACE: build/audio_trace)

Needs ffmpeg, sox, espeak-ng, and Python with torch, transformers (>= 5.17), librosa, soundfile, safetensors, gguf.
"""
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from safetensors.numpy import load_file
from transformers import Qwen3OmniMoeForConditionalGeneration, WhisperFeatureExtractor
from transformers.audio_utils import spectrogram, window_function

import audio_gguf

warnings.filterwarnings("ignore")
torch.set_grad_enabled(False)
tool, checkpoints = sys.argv[1], sys.argv[2:]
work = Path(tempfile.mkdtemp(prefix="check-audio-"))
failed = 0


def sh(line):
    subprocess.run(line, shell=True, check=True, cwd=work, stdout=subprocess.DEVNULL)


def trace(mmproj, files):
    r = subprocess.run([tool, work / "trace.safetensors", mmproj, *files], capture_output=True, text=True)
    if r.returncode:
        raise SystemExit(f"{' '.join(map(str, files))}: {r.stderr}")
    return load_file(work / "trace.safetensors")


def report(what, error, most):
    global failed
    failed += not error <= most
    print(f"{'ok  ' if error <= most else 'FAIL'} {what}: {error:.2e}")


# ---- files ----
sh('espeak-ng -w s.wav "The quick brown fox jumps over the lazy dog, then runs through the forest to the river and drinks. '
   'Twelve boats lie there, and nobody knows who left them; the water is high, the night is near, and it begins to rain."')
sh("sox s.wav -r 44100 -b 16 l.wav trim 0 3 && sox s.wav -r 44100 -b 16 r.wav trim 3 3 && sox -M l.wav r.wav -b 24 base.wav")
video = "-f lavfi -i testsrc=size=64x48:rate=10:duration=3"
kinds = {"16.wav": "-c:a pcm_s16le", "8.wav": "-c:a pcm_u8", "24.wav": "-c:a pcm_s24le", "32.wav": "-c:a pcm_s32le", "f32.wav": "-c:a pcm_f32le",
         "f64.wav": "-c:a pcm_f64le", "alaw.wav": "-c:a pcm_alaw", "6.wav": "-ac 6 -c:a pcm_s16le", "8k.wav": "-ar 8000 -c:a pcm_s16le",
         "11k.wav": "-ar 11025 -c:a pcm_s16le", "96k.wav": "-ar 96000 -c:a pcm_s24le", "a.aiff": "", "a.flac": "", "48k.flac": "-ar 48000",
         "a.m4a": "-c:a aac", "lossless.m4a": "-c:a alac", "a.mp3": "-b:a 128k", "22k.mp3": "-ar 22050 -b:a 64k", "a.ogg": "-c:a libvorbis",
         "32k.ogg": "-ar 32000 -ac 1 -c:a libvorbis", "a.opus": "-c:a libopus", "v.mp4": "VIDEO -c:v mpeg4 -c:a aac", "v.mov": "VIDEO -c:v mpeg4 -c:a aac",
         "v.webm": "VIDEO -c:v libvpx -c:a libopus", "v.mkv": "VIDEO -c:v mpeg4 -c:a libvorbis"}
for name, options in kinds.items():
    inputs = f"{video} -i base.wav" if "VIDEO" in options else "-i base.wav"
    sh(f"ffmpeg -v error -y {inputs} {options.replace('VIDEO', '')} {name}")
    got, want = trace("-", [work / name])["sound.0"], librosa.load(work / name, sr=16000)[0]
    lossy = name.endswith((".mp3", ".ogg", ".opus", ".mp4", ".mov", ".webm", ".mkv")) or name == "a.m4a"
    difference = np.abs(got - want).max() if got.shape == want.shape else np.inf
    # librosa reads WebM through the ffmpeg program, whose own Opus decoder differs by up to 4e-4 from the one of the standard
    report(f"{name}, {len(got)} samples (librosa {len(want)})", difference, 1e-3 if name == "v.webm" else 5e-5 if lossy else 0)
# ends inside a block: exactly the samples that went in
for n in (1000, 5292, 22050, 30001, 44100):
    sh(f"sox base.wav cut.wav trim 0 {n}s && ffmpeg -v error -y -i cut.wav -c:a libvorbis cut.ogg")
    got, want = trace("-", [work / "cut.ogg"])["sound.0"], librosa.load(work / "cut.ogg", sr=16000)[0]
    report(f"Ogg Vorbis of {n} samples", np.abs(got - want).max() if got.shape == want.shape else np.inf, 5e-5)

# ---- features and embeddings ----
extract = WhisperFeatureExtractor(feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=300, return_attention_mask=True)
random = np.random.default_rng(0)
sh("sox s.wav -r 16000 -c 1 -b 16 s16.wav repeat 4")
speech = soundfile.read(work / "s16.wav", dtype="int16")[0]


def make(kind, seconds):
    n = round(seconds * 16000)
    if kind == "speech":
        at = int(random.integers(0, len(speech) - n))
        return speech[at:at + n]
    if kind == "noise":
        return (random.standard_normal(n) * 3000).clip(-32768, 32767).astype(np.int16)
    if kind == "tone":
        return (20000 * np.sin(np.arange(n) * 2 * np.pi * 441.7 / 16000)).astype(np.int16)
    return np.zeros(n, np.int16)


def exact(sounds, longest):
    """The features in float64: what part of a difference is the reference's own rounding."""
    out = []
    for x in sounds:
        x = np.pad(x.astype(np.float64), (0, longest - len(x)))
        s = spectrogram(x, window_function(400, "hann"), frame_length=400, hop_length=160, power=2.0, mel_filters=extract.mel_filters, log_mel="log10",
                        dtype=np.float64)[:, :-1]
        out.append((np.maximum(s, s.max() - 8) + 4) / 4)
    return np.array(out)


speech_of = [("speech", s) for s in (0.05, 0.99, 1.0, 1.01, 1.5, 7.99, 8.0, 8.01, 8.3, 16.0, 35.0)]
cases = [[c] for c in speech_of] + [
    [("tone", 3.0)], [("silence", 0.5)], [("noise", 2.3333)], [("speech", 8.3), ("speech", 0.51)], [("speech", 0.33), ("speech", 0.777), ("speech", 0.2)],
    [("noise", 2.345), ("tone", 1.2345), ("silence", 0.9999), ("speech", 17)], [("speech", 1.0), ("speech", 0.98765)],
    [("speech", 1.0), ("speech", 0.9999)], [("speech", 24.001)] + [("speech", 0.3)] * 70]
for checkpoint in checkpoints:
    model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    audio_gguf.write(checkpoint, work / "encoder.gguf")
    for case in cases:
        files, sounds = [], []
        for i, (kind, seconds) in enumerate(case):
            files.append(work / f"case{i}.wav")
            pcm = make(kind, seconds)
            soundfile.write(files[-1], pcm, 16000, subtype="PCM_16")
            sounds.append(pcm.astype(np.float32) / 32768)
        r = extract(sounds, sampling_rate=16000, padding=True, truncation=False, return_attention_mask=True, return_tensors="pt")
        want = model.thinker.get_audio_features(r["input_features"], r["attention_mask"]).last_hidden_state.numpy()
        got = trace(work / "encoder.gguf", files)
        features, mask = r["input_features"].numpy(), r["attention_mask"].numpy()
        name = f"{Path(checkpoint).name} " + ", ".join(f"{k} {s} s" for k, s in case[:4]) + (f" and {len(case) - 4} more" if len(case) > 4 else "")
        same = got["inputs.input_features"].shape == features.shape and np.array_equal(got["inputs.feature_attention_mask"], mask)
        same = same and all(np.array_equal(got[f"sound.{i}"], s) for i, s in enumerate(sounds))
        if not same or got["audio_embeds"].shape != want.shape:
            report(name + ": shapes, samples or mask", np.inf, 0)
            continue
        truth = exact(sounds, max(map(len, sounds)))
        ours = got["inputs.input_features"]
        report(f"{name}: mel (to float64: ours {np.abs(ours - truth).max():.1e}, the reference {np.abs(features - truth).max():.1e})",
               np.abs(ours - features).max(), 1e-4)
        report(f"{name}: embeddings, of the largest", np.abs(got["audio_embeds"] - want).max() / np.abs(want).max(), 1e-5)
subprocess.run(["rm", "-r", str(work)], check=True)
print("failed:", failed)
sys.exit(failed > 0)
