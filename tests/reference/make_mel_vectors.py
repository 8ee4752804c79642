"""Makes tests/data/audio/edges.safetensors: log-mel features of WhisperFeatureExtractor, as Qwen3-Omni's processor calls it, for sounds whose
lengths lie at the edges of windows and hops. Each tensor's name is the list of lengths of one call: "400,1" has the features [2, 128, frames],
"400,1.mask" the mask.

    make_mel_vectors.py OUT_DIR

Needs Python with torch, transformers (>= 5.17), safetensors. The samples are made up so that anyone can make them again: see made_up.
"""
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from transformers import WhisperFeatureExtractor

CALLS = [[201], [239], [240], [241], [319], [320], [321], [399], [400], [401], [479], [480], [481], [639], [640], [641], [799], [800], [801],
         [201, 1], [400, 199], [199, 400], [200, 401], [400, 160], [161, 401], [481, 1, 320], [640, 639, 641], [1, 2, 3, 1000]]


def made_up(length, which):
    """Sample i of the sound at place `which` of its call."""
    i = np.arange(length, dtype=np.int64)
    return ((i * (7919 + 2 * which) + 31) % 2003).astype(np.float32) / np.float32(2003) - np.float32(0.5)


extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400, chunk_length=300, padding_value=0.0,
                                    return_attention_mask=True)
vectors = {}
for lengths in CALLS:
    got = extractor([made_up(n, k) for k, n in enumerate(lengths)], sampling_rate=16000, padding=True, truncation=False,
                    return_attention_mask=True, return_tensors="np")
    name = ",".join(map(str, lengths))
    vectors[name] = np.ascontiguousarray(got["input_features"].astype(np.float32))
    vectors[name + ".mask"] = np.ascontiguousarray(got["attention_mask"].astype(np.float32))
save_file(vectors, Path(sys.argv[1]) / "edges.safetensors")
