"""An audio encoder of a checkpoint as a GGUF file, written with the PyPI package gguf: what the unit tests and
check_audio.py load, independent of this project's own converter. Layout: docs/formats.md, and llama.cpp's converter.

    audio_gguf.py CHECKPOINT OUT.gguf [f32|f16|bf16|q8_0]
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file


def write(checkpoint, out, kind="f32", extra=True):
    checkpoint = Path(checkpoint)
    config = json.load(open(checkpoint / "config.json"))["thinker_config"]["audio_config"]
    pre = json.load(open(checkpoint / "preprocessor_config.json"))
    tensors = {}
    for shard in sorted(checkpoint.glob("*.safetensors")):
        tensors.update({k: v for k, v in load_file(shard).items() if k.startswith("thinker.audio_tower.")})
    w = gguf.GGUFWriter(str(out), "clip")
    w.add_clip_has_audio_encoder(True)
    w.add_clip_audio_projector_type("qwen3a")
    w.add_audio_projection_dim(config["output_dim"])
    w.add_audio_embedding_length(config["d_model"])
    w.add_audio_feed_forward_length(config["encoder_ffn_dim"])
    w.add_audio_block_count(config["encoder_layers"])
    w.add_audio_head_count(config["encoder_attention_heads"])
    w.add_audio_num_mel_bins(config["num_mel_bins"])
    w.add_audio_attention_layernorm_eps(1e-5)
    if extra:  # what files of llama.cpp's converter lack
        w.add_uint32("omni.audio.sampling_rate", pre["sampling_rate"])
        w.add_uint32("omni.audio.n_fft", pre["n_fft"])
        w.add_uint32("omni.audio.hop_length", pre["hop_length"])
        w.add_uint32("omni.audio.n_window", config["n_window"])
        w.add_uint32("omni.audio.n_window_infer", config["n_window_infer"])

    def add(name, value):
        value = np.ascontiguousarray(value, np.float32)
        matrix = name.endswith(".weight") and value.ndim > 1
        if matrix and kind == "f16":
            w.add_tensor(name, value.astype(np.float16))
        elif matrix and kind != "f32":
            conv = "conv2d" in name or value.shape[-1] % 32
            t = gguf.GGMLQuantizationType.F16 if conv else gguf.GGMLQuantizationType[kind.upper()]
            w.add_tensor(name, gguf.quantize(value, t), raw_dtype=t)
        else:
            w.add_tensor(name, value)

    names = dict(self_attn_layer_norm="ln1", final_layer_norm="ln2", fc1="ffn_up", fc2="ffn_down")
    names |= {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.out_proj": "attn_out"}
    for key, value in tensors.items():
        key = key.removeprefix("thinker.audio_tower.")
        stem, suffix = key.rsplit(".", 1)
        if stem.startswith("conv2d"):
            add(f"a.conv2d.{stem[-1]}.{suffix}", value if suffix == "weight" else value[:, None, None])
        elif stem == "conv_out":
            add("a.conv_out.weight", value)
        elif stem == "ln_post":
            add(f"a.post_ln.{suffix}", value)
        elif stem in ("proj1", "proj2"):
            add(f"mm.a.mlp.{stem[-1]}.{suffix}", value)
        else:
            _, layer, rest = stem.split(".", 2)
            add(f"a.blk.{layer}.{names[rest]}.{suffix}", value)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    write(*sys.argv[1:])
