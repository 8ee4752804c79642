#!/usr/bin/env python3
"""What the reference implementation says and sounds like: data for tests/unit/test_talker.c and test_code2wav.c.

    make_talker_vectors.py store TINY_OMNI.py MEDIA_DIR OUT_DIR
        builds a very small checkpoint and writes talker.gguf and talker_vectors.gguf (the files under tests/data)
    make_talker_vectors.py checkpoint TINY_OMNI.py CHECKPOINT CASES.json OUT_DIR
        the same for a given checkpoint in F32: run `test_talker OUT_DIR` and `test_code2wav OUT_DIR` on it

TINY_OMNI.py is the reference tool (it builds tiny checkpoints and runs transformers). MEDIA_DIR receives the pictures and
sounds of the cases. The talker file is written here with the PyPI package gguf, independently of `omni convert`.
Needs torch, transformers, gguf, safetensors, numpy, pillow.
"""
import importlib.util
import json
import os
import re
import sys
import tempfile
import wave

import numpy as np

# Even smaller than the reference tool's variants; every size differs from the others that it could be mistaken for.
SMALL = dict(hidden=16, layers=3, heads=2, kv=1, head_dim=12, mrope=[2, 2, 2], moe=16, experts=4, topk=2,
             accept=2, a_d=16, a_layers=1, a_heads=2, a_ffn=16, a_down=4,
             v_d=16, v_layers=2, v_heads=2, v_ffn=16, v_deep=[0, 1], v_grid=8,
             t_hidden=20, t_layers=2, t_heads=4, t_kv=2, t_moe=8, t_shared=24, t_experts=5, t_topk=2,
             p_layers=2, p_heads=2, p_kv=1, p_ffn=28, codebook=48, groups=5, t_vocab=48 + 1024,
             w_hidden=24, w_layers=2, w_heads=3, w_ffn=20, w_window=5, w_dim=16)

WAV_STRIDE = 7  # stored waveforms keep every 7th sample: coprime to every stage's rate


def talker_tensors(state):
    """(our name, values in our layout) for every tensor of the talker file, from a checkpoint's state dict."""
    simple = {
        "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
        "self_attn.q_proj.weight": "attn_q.weight", "self_attn.k_proj.weight": "attn_k.weight", "self_attn.v_proj.weight": "attn_v.weight",
        "self_attn.o_proj.weight": "attn_output.weight", "self_attn.q_norm.weight": "attn_q_norm.weight",
        "self_attn.k_norm.weight": "attn_k_norm.weight", "mlp.gate.weight": "ffn_gate_inp.weight",
        "mlp.experts.down_proj": "ffn_down_exps.weight", "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
        "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight", "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
        "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight", "mlp.gate_proj.weight": "ffn_gate.weight",
        "mlp.up_proj.weight": "ffn_up.weight", "mlp.down_proj.weight": "ffn_down.weight",
        "self_attn_layer_scale.scale": "attn_scale.weight", "mlp_layer_scale.scale": "ffn_scale.weight"}
    decoder_last = max(int(k.split(".")[2]) for k in state if k.startswith("code2wav.decoder."))
    for key, t in sorted(state.items()):
        t = t.detach().float().numpy()
        if m := re.fullmatch(r"(talker|talker\.code_predictor)\.model\.layers\.(\d+)\.(.*)|code2wav\.pre_transformer\.layers\.(\d+)\.(.*)", key):
            prefix = "code2wav" if m[4] else "code_predictor" if m[1] != "talker" else "talker"
            layer, rest = m[2] or m[4], m[3] or m[5]
            if rest == "mlp.experts.gate_up_proj":
                half = t.shape[1] // 2
                yield f"{prefix}.blk.{layer}.ffn_gate_exps.weight", t[:, :half]
                yield f"{prefix}.blk.{layer}.ffn_up_exps.weight", t[:, half:]
            else:
                yield f"{prefix}.blk.{layer}.{simple[rest]}", t
        elif m := re.fullmatch(r"talker\.(text|hidden)_projection\.linear_(fc[12])\.(.*)", key):
            yield f"talker.{m[1]}_projection.{m[2]}.{m[3]}", t
        elif m := re.fullmatch(r"talker\.code_predictor\.(model\.codec_embedding|lm_head)\.(\d+)\.weight", key):
            yield f"code_predictor.{'output' if m[1] == 'lm_head' else 'token_embd'}.{m[2]}.weight", t
        elif m := re.fullmatch(r"code2wav\.upsample\.(\d+)\.(.*)", key):
            name = {"0.conv.": "conv.", "1.dwconv.conv.": "dwconv.", "1.norm.": "norm.", "1.pwconv1.": "pwconv1.", "1.pwconv2.": "pwconv2."}
            part = "gamma.weight" if m[2] == "1.gamma" else next(v + m[2][len(k):] for k, v in name.items() if m[2].startswith(k))
            if part == "conv.weight":
                t = t.transpose(2, 1, 0)                            # [in, out, kernel] -> [kernel][out][in]
            elif part == "dwconv.weight":
                t = t[:, 0].T                                       # [channels, 1, kernel] -> [kernel][channels]
            yield f"code2wav.upsample.{m[1]}.{part}", t
        elif m := re.fullmatch(r"code2wav\.decoder\.(\d+)\.(.*)", key):
            n, rest = int(m[1]), m[2]
            if n in (0, decoder_last):
                name = f"code2wav.conv_{'in' if n == 0 else 'out'}.{rest.split('.')[-1]}"
            elif n == decoder_last - 1:
                name = f"code2wav.snake_out.{rest}"
            else:
                b = re.fullmatch(r"block\.(\d+)\.(.*)", rest)
                i, rest = int(b[1]), b[2]
                if i == 0:
                    name = f"code2wav.decoder.{n - 1}.snake.{rest}"
                elif i == 1:
                    name = f"code2wav.decoder.{n - 1}.conv.{rest.split('.')[-1]}"
                else:
                    rest = rest.replace("act1", "snake1").replace("act2", "snake2").replace("conv1.conv", "conv1").replace("conv2.conv", "conv2")
                    name = f"code2wav.decoder.{n - 1}.res.{i - 2}.{rest}"
            if t.ndim == 3:
                # transposed: [in, out, kernel] -> [kernel][out][in]; causal: [out, in, kernel] -> [out][kernel][in]
                t = t.transpose(2, 1, 0) if re.fullmatch(r"code2wav\.decoder\.\d+\.conv\.weight", name) else t.transpose(0, 2, 1)
            yield name, t
        elif key in (named := {
                "talker.model.codec_embedding.weight": "talker.token_embd.weight", "talker.codec_head.weight": "talker.output.weight",
                "talker.model.norm.weight": "talker.output_norm.weight",
                "talker.code_predictor.model.norm.weight": "code_predictor.output_norm.weight",
                "code2wav.code_embedding.weight": "code2wav.token_embd.weight",
                "code2wav.pre_transformer.norm.weight": "code2wav.output_norm.weight"}):
            yield named[key], t
        elif key.startswith(("talker.", "code2wav.")):
            raise SystemExit(f"no name for {key}")


def write_talker(config, state, path, half):
    """config: config.json as a dictionary. half: matrices in F16."""
    import gguf
    w = gguf.GGUFWriter(path, "qwen3omni_talker")
    t, text, pred, wav = config["talker_config"], config["talker_config"]["text_config"], config["talker_config"]["code_predictor_config"], config["code2wav_config"]

    def keys(prefix, **values):
        for name, v in values.items():
            add = w.add_bool if isinstance(v, bool) else w.add_float32 if isinstance(v, float) else w.add_array if isinstance(v, list) else w.add_uint32
            add(f"{prefix}.{name}", v)
    keys("talker", hidden_size=text["hidden_size"], block_count=text["num_hidden_layers"], head_count=text["num_attention_heads"],
         head_count_kv=text["num_key_value_heads"], head_dim=text["head_dim"], vocab_size=text["vocab_size"],
         expert_count=text.get("num_experts") or text["num_local_experts"], experts_used_count=text["num_experts_per_tok"],
         expert_feed_forward_length=text["moe_intermediate_size"], shared_expert_feed_forward_length=text["shared_expert_intermediate_size"],
         norm_topk_prob=text["norm_topk_prob"], rms_norm_eps=float(text["rms_norm_eps"]), rope_theta=float(text["rope_parameters"]["rope_theta"]),
         rope_sections=text["rope_parameters"]["mrope_section"], context_length=text["max_position_embeddings"],
         thinker_hidden_size=t["thinker_hidden_size"], accept_hidden_layer=t["accept_hidden_layer"], num_code_groups=t["num_code_groups"],
         codec_pad_id=t["codec_pad_id"], codec_bos_id=t["codec_bos_id"], codec_eos_id=t["codec_eos_token_id"],
         codec_nothink_id=t["codec_nothink_id"], codec_think_bos_id=t["codec_think_bos_id"], codec_think_eos_id=t["codec_think_eos_id"],
         speaker_names=list(t["speaker_id"]), speaker_ids=list(t["speaker_id"].values()),
         position_id_per_seconds=t["position_id_per_seconds"], spatial_merge_size=t["spatial_merge_size"],
         **{f"{k}_token_id": config[f"{k}_token_id"] for k in ("tts_pad", "tts_bos", "tts_eos", "im_start", "im_end", "system", "user", "assistant")},
         **{f"{k}_token_id": t[f"{k}_token_id"] for k in ("image", "video", "audio", "audio_start", "vision_start")})
    keys("code_predictor", hidden_size=pred["hidden_size"], block_count=pred["num_hidden_layers"], head_count=pred["num_attention_heads"],
         head_count_kv=pred["num_key_value_heads"], head_dim=pred["head_dim"], feed_forward_length=pred["intermediate_size"],
         vocab_size=pred["vocab_size"], rms_norm_eps=float(pred["rms_norm_eps"]), rope_theta=float(pred["rope_parameters"]["rope_theta"]),
         num_code_groups=pred["num_code_groups"])
    keys("code2wav", hidden_size=wav["hidden_size"], block_count=wav["num_hidden_layers"], head_count=wav["num_attention_heads"],
         head_count_kv=wav["num_key_value_heads"], head_dim=wav.get("head_dim") or wav["hidden_size"] // wav["num_attention_heads"],
         feed_forward_length=wav["intermediate_size"], rms_norm_eps=float(wav["rms_norm_eps"]),
         rope_theta=float(wav["rope_parameters"]["rope_theta"]), sliding_window=wav["sliding_window"], codebook_size=wav["codebook_size"],
         num_quantizers=wav["num_quantizers"], decoder_dim=wav["decoder_dim"], upsample_rates=wav["upsample_rates"],
         upsampling_ratios=wav["upsampling_ratios"], sample_rate=24000)
    for name, values in talker_tensors(state):
        w.add_tensor(name, np.ascontiguousarray(values, np.float16 if half and values.ndim > 1 and "dwconv" not in name else np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def collapse(ids, got, config):
    """The prompt before its placeholders were repeated: media number i as -1 - i; and the media, [kind, time, height, width, sound]:
    kind 0 image, 1 audio, 2 video; grid of patches; embeddings of sound (-1: none)."""
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths
    import torch
    grids = {k: iter(got[f"inputs.{k}_grid_thw"].tolist() if f"inputs.{k}_grid_thw" in got else []) for k in ("image", "video")}
    mask = got.get("inputs.feature_attention_mask", np.zeros((0, 0)))
    sounds = iter(int(_get_feat_extract_output_lengths(torch.tensor(int(m.sum())))) for m in mask)
    pads = {config.image_token_id, config.video_token_id, config.audio_token_id}
    out, media, i = [], [], 0
    while i < len(ids):
        clip = ids[i] == config.audio_start_token_id and out and out[-1] == config.vision_start_token_id
        if not clip and ids[i] not in pads:
            out.append(ids[i])
            i += 1
            continue
        kind = 2 if clip else {config.image_token_id: 0, config.audio_token_id: 1, config.video_token_id: 2}[ids[i]]
        grid = [0, 0, 0] if kind == 1 else next(grids["image" if kind == 0 else "video"])
        media.append([kind] + grid + [next(sounds) if clip or kind == 1 else -1])
        out.append(-len(media))
        i += clip
        while ids[i] in pads:
            i += 1
        i += clip                                                   # the inner audio_end
    return out, media


def write_vectors(tool, ref, cases, path):
    """The thinker's token table, and for each case what goes into the talker and what the reference made of it."""
    import gguf
    model = ref.model
    w = gguf.GGUFWriter(path, "talker_vectors")
    w.add_uint32("cases", len(cases))
    w.add_uint32("wav_stride", WAV_STRIDE)
    table = model.thinker.get_input_embeddings().weight.detach().numpy()
    w.add_tensor("thinker.token_embd.weight", table.astype(np.float16) if np.array_equal(table, table.astype(np.float16)) else table)
    positions = []
    index = model.talker.get_rope_index
    model.talker.get_rope_index = lambda *a, **k: positions.append(index(*a, **k)) or positions[-1]
    media_ids = [getattr(model.config.thinker_config, f"{k}_token_id") for k in ("audio", "image", "video")]
    for i, case in enumerate(cases):
        positions.clear()
        got = ref.run(dict(case, speak=True))
        n = got["inputs.input_ids"].shape[1]
        ids = got["sequences"][0]
        name = f"case.{i}."
        w.add_string(name + "voice", case.get("speaker", "Chelsie"))
        w.add_float32(name + "penalty", case.get("penalty", 1.05))
        w.add_uint32(name + "max_frames", case.get("frames", 20) - 1)   # the reference makes a frame of every token but the last
        w.add_tensor(name + "prompt", ids[:n].astype(np.int32))         # as the reference's processor gives it
        w.add_tensor(name + "answer", ids[n:].astype(np.int32))
        media = np.isin(ids[:n], media_ids)
        if media.any():
            w.add_tensor(name + "media_hidden", np.ascontiguousarray(got["accept_hidden"][0, :n][media]))
        marked, found = collapse(ids[:n].tolist(), got, model.config.thinker_config)
        w.add_tensor(name + "marked", np.asarray(marked, np.int32))
        if found:
            w.add_tensor(name + "media", np.asarray(found, np.int32))
        w.add_float32(name + "fps", case.get("fps", 2.0))
        w.add_tensor(name + "positions", np.ascontiguousarray(positions[0][0][:, 0].T.float().numpy()))   # [talker prompt, 3]
        codes = got["codes"][0].T.astype(np.int32)
        if len(codes):
            w.add_tensor(name + "codes", np.ascontiguousarray(codes))   # [frames, groups]
            w.add_uint32(name + "samples", got["wav"].size)
            w.add_tensor(name + "wav", np.ascontiguousarray(got["wav"].reshape(-1)[::WAV_STRIDE]))
        print(f"case {i}: {n} prompt tokens, {media.sum()} media, {len(codes)} frames", codes[:3].tolist(), flush=True)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make_media(folder):
    from PIL import Image
    os.makedirs(folder, exist_ok=True)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(f"{folder}/picture.png")
    np.save(f"{folder}/video.npy", rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
    w = wave.open(f"{folder}/sound.wav", "wb")
    w.setnchannels(1), w.setsampwidth(2), w.setframerate(16000)
    w.writeframes((rng.standard_normal(16000) * 3000).astype(np.int16).tobytes())
    w.close()
    return {"image": [f"{folder}/picture.png"], "video": [f"{folder}/video.npy"], "audio": [f"{folder}/sound.wav"]}


def default_cases(media):
    turns = [dict(role="system", content="Be brief."), dict(role="user", content="Hello there"), dict(role="assistant", content="Good day."),
             dict(role="user", content=[dict(type="image", path=media["image"][0]), dict(type="text", text="And this?")])]
    return [dict(prompt="Say something.", tokens=8, frames=20, speaker="Chelsie"),
            dict(prompt="Shorter", tokens=2, frames=5, speaker="ETHAN", penalty=1.0),
            dict(messages=turns, tokens=5, frames=10, speaker="aiden"),
            dict(prompt="What do you hear?", audio=media["audio"], tokens=6, frames=8, speaker="Ethan"),
            dict(prompt="What happens?", video=media["video"], audio=media["audio"], image=media["image"], fps=3.0, tokens=6, frames=8),
            dict(prompt="What happens?", video=media["video"], audio=media["audio"], use_audio_in_video=True, tokens=6, frames=8, speaker="Aiden"),
            dict(prompt="And now?", image=media["image"], video=media["video"], audio=media["audio"], use_audio_in_video=True, tokens=6, frames=6)]


def load_tool(path):
    spec = importlib.util.spec_from_file_location("tiny_omni", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def main(args):
    import torch
    if len(args) == 4 and args[0] == "store":
        tool, out = load_tool(args[1]), args[3]
        folder = tempfile.mkdtemp()
        json.dump(SMALL, open(f"{folder}/variant.json", "w"))
        tool.build(f"{folder}/checkpoint", 0, f"{folder}/variant.json")
        ref = tool.Reference(f"{folder}/checkpoint")
        with torch.no_grad():                       # what F16 holds exactly, so that the stored file is small and still exact
            for p in ref.model.parameters():
                if p.dim() > 1:
                    p.copy_(p.half().float())
        checkpoint, cases, half = f"{folder}/checkpoint", default_cases(make_media(args[2])), True
    elif len(args) == 5 and args[0] == "checkpoint":
        tool, checkpoint, out, half = load_tool(args[1]), args[2], args[4], False
        ref = tool.Reference(checkpoint)
        cases = json.load(open(args[3]))
    else:
        sys.exit(__doc__)
    os.makedirs(out, exist_ok=True)
    write_talker(json.load(open(f"{checkpoint}/config.json")), ref.model.state_dict(), f"{out}/talker.gguf", half)
    write_vectors(tool, ref, cases, f"{out}/talker_vectors.gguf")


if __name__ == "__main__":
    main(sys.argv[1:])
