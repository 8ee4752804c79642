#!/usr/bin/env python3
"""Write the test data of the conversion: what transformers says about the model, without any weights.

    convert_data.py CONFIG.json OUT_DIR

CONFIG.json is the configuration of the released model in the current spelling. OUT_DIR receives, for that model ("full") and for
a very small one ("micro"):
    NAME_config.json       the configuration as transformers writes it
    NAME_config_old.json   the same in the spelling of the released files
    NAME_tensors.txt       every parameter and its shape; {a-b} stands for each number from a to b
and micro_tokenizer.json, a tokenizer of single bytes with the markup and the role names.
Needs torch and transformers >= 5.17.
"""
import collections, itertools, json, os, re, sys

import torch
from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

ROLES = ["system", "user", "assistant"]
MARKUP = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>",
          "<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>", "<|audio_pad|>"]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def tokenizer():
    names = [chr(c) for c in itertools.chain(range(33, 127), range(161, 173), range(174, 256))] + [chr(256 + i) for i in range(68)]
    merges = []
    for role in ROLES:
        for i in range(1, len(role)):
            pair = [role[:i], role[i]]
            if "".join(pair) not in names:
                names.append("".join(pair))
                merges.append(pair)
    added = [dict(id=len(names) + i, content=c, single_word=False, lstrip=False, rstrip=False, normalized=False, special=c != "<tool_call>")
             for i, c in enumerate(MARKUP)]
    vocab = {n: i for i, n in enumerate(names)}
    ids = vocab | {a["content"]: a["id"] for a in added}
    return dict(version="1.0", added_tokens=added, normalizer=dict(type="NFC"),
                pre_tokenizer=dict(type="Sequence", pretokenizers=[
                    dict(type="Split", pattern=dict(Regex=PATTERN), behavior="Isolated", invert=False),
                    dict(type="ByteLevel", add_prefix_space=False, trim_offsets=False, use_regex=False)]),
                model=dict(type="BPE", vocab=vocab, merges=merges)), ids


def micro_config(ids):
    vocab = max(ids.values()) + 4
    rope = dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 1, 1], interleaved=True)
    plain = dict(rope_type="default", rope_theta=1e6)
    media = dict(image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"], audio_token_id=ids["<|audio_pad|>"],
                 audio_start_token_id=ids["<|audio_start|>"], audio_end_token_id=ids["<|audio_end|>"],
                 vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"], position_id_per_seconds=13)
    return Qwen3OmniMoeConfig(
        im_start_token_id=ids["<|im_start|>"], im_end_token_id=ids["<|im_end|>"], system_token_id=ids["system"], user_token_id=ids["user"],
        assistant_token_id=ids["assistant"], tts_pad_token_id=ids["<tts_pad>"], tts_bos_token_id=ids["<tts_text_bos>"],
        tts_eos_token_id=ids["<tts_text_eod>"],
        thinker_config=dict(
            **media, user_token_id=ids["user"],
            text_config=dict(vocab_size=vocab, hidden_size=32, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2,
                             num_key_value_heads=1, head_dim=8, moe_intermediate_size=12, num_experts=3, num_local_experts=3, num_experts_per_tok=2,
                             norm_topk_prob=True, rope_parameters=rope, max_position_embeddings=512),
            audio_config=dict(num_mel_bins=20, d_model=8, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=12, output_dim=32,
                              downsample_hidden_size=4, max_source_positions=40),
            vision_config=dict(depth=3, hidden_size=8, intermediate_size=12, num_heads=2, patch_size=4, temporal_patch_size=2, spatial_merge_size=2,
                               in_channels=3, out_hidden_size=32, num_position_embeddings=9, deepstack_visual_indexes=[0, 2])),
        talker_config=dict(
            **media, accept_hidden_layer=2, num_code_groups=3, thinker_hidden_size=32, spatial_merge_size=2, codec_pad_id=70, codec_bos_id=71,
            codec_eos_token_id=72, codec_nothink_id=73, codec_think_bos_id=74, codec_think_eos_id=75, speaker_id=dict(chelsie=80, ethan=81, aiden=82),
            text_config=dict(vocab_size=100, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
                             moe_intermediate_size=6, shared_expert_intermediate_size=10, intermediate_size=20, num_experts=3, num_local_experts=3,
                             num_experts_per_tok=1, norm_topk_prob=True, rope_parameters=rope, max_position_embeddings=512),
            code_predictor_config=dict(vocab_size=64, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
                                       num_key_value_heads=1, head_dim=8, num_code_groups=3, rope_parameters=plain, max_position_embeddings=512)),
        code2wav_config=dict(codebook_size=64, num_quantizers=3, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
                             num_key_value_heads=2, sliding_window=5, decoder_dim=16, upsample_rates=[3, 2], upsampling_ratios=[2, 2],
                             max_position_embeddings=512, rope_parameters=dict(rope_type="default", rope_theta=1e4)))


def old_spelling(config):
    """The spelling of the released files: rope_scaling with rope_theta beside it, num_experts alone."""
    if isinstance(config, list):
        return [old_spelling(v) for v in config]
    if not isinstance(config, dict):
        return config
    out = {k: old_spelling(v) for k, v in config.items()}
    rope = out.pop("rope_parameters", None)
    if rope and rope.get("rope_type") != "axial":
        out["rope_theta"] = int(rope["rope_theta"])
        out["rope_scaling"] = None
        if "mrope_section" in rope:
            out["rope_scaling"] = dict(interleaved=True, mrope_section=rope["mrope_section"], rope_type="default", type="default")
    if "num_local_experts" in out:
        out["num_experts"] = out.pop("num_local_experts")
    return out


def old_config(config):
    out = old_spelling(json.loads(json.dumps(config)))
    out["thinker_config"]["model_type"] = "qwen3_omni_moe_thinker"
    speakers = out["talker_config"]["speaker_id"]
    out["talker_config"]["speaker_id"] = {k: speakers[k] for k in reversed(list(speakers))}
    for where in ("im_start_token_id", "im_end_token_id"):                 # in the released files beside the talker's fields
        out["talker_config"][where] = out[where]
    # what these releases have and nothing reads
    out["code2wav_config"].update(codebook_dim=512, semantic_codebook_size=4096, vector_quantization_hidden_dimension=512)
    out["talker_config"].update(seconds_per_chunk=2)
    return dict(reversed(list(out.items())))


def tensor_list(config):
    with torch.device("meta"):
        model = Qwen3OmniMoeForConditionalGeneration(config)
    groups = collections.OrderedDict()
    for name, p in model.named_parameters():
        key = (re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name), tuple(p.shape))
        groups.setdefault(key, []).append(tuple(int(x) for x in re.findall(r"(?<=\.)\d+(?=\.|$)", name)))
    lines = []
    for (pattern, shape), numbers in groups.items():
        for ranges in boxes(sorted(numbers)):
            text = pattern
            for a, b in ranges:
                text = text.replace("#", str(a) if a == b else "{%d-%d}" % (a, b), 1)
            lines.append(f"{text} {list(shape)}")
    return lines


def boxes(numbers):
    """The tuples as products of ranges, one box where they are a full product, else a box each."""
    if not numbers[0]:
        return [[]]
    ranges = [(min(c), max(c)) for c in zip(*numbers)]
    full = list(itertools.product(*(range(a, b + 1) for a, b in ranges)))
    return [ranges] if full == numbers else [[(n, n) for n in t] for t in numbers]


def main():
    source, out = sys.argv[1], sys.argv[2]
    os.makedirs(out, exist_ok=True)
    tok, ids = tokenizer()
    json.dump(tok, open(f"{out}/micro_tokenizer.json", "w", encoding="utf-8"), ensure_ascii=False)
    for name, config in (("full", Qwen3OmniMoeConfig(**json.load(open(source)))), ("micro", micro_config(ids))):
        d = config.to_dict()
        for section in (d, d["thinker_config"], d["talker_config"], d["code2wav_config"], *(d["thinker_config"][k] for k in d["thinker_config"] if
                        k.endswith("_config")), *(d["talker_config"][k] for k in d["talker_config"] if k.endswith("_config"))):
            for k in ("id2label", "label2id", "_name_or_path", "architectures", "output_attentions", "output_hidden_states", "return_dict",
                      "problem_type", "chunk_size_feed_forward", "is_encoder_decoder", "dtype"):
                section.pop(k, None)                                       # what every transformers configuration carries
        json.dump(d, open(f"{out}/{name}_config.json", "w"), indent=1)
        json.dump(old_config(d), open(f"{out}/{name}_config_old.json", "w"), indent=1)
        lines = tensor_list(config)
        open(f"{out}/{name}_tensors.txt", "w").write("\n".join(lines) + "\n")
        print(name, len(lines), "lines")


main()
