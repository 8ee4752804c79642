#!/usr/bin/env python3
"""A checkpoint folder in the published layout from the trained parts, checked against transformers' own forward passes.

    export.py CODEC.small.pt TALKER.small.pt THINKER.small.pt OUT_DIR

A part given as - stays random: to convert one part alone.
"""
import argparse, json, os, shutil
import numpy as np
import torch
from codec import load_codec
from pictures import MOST_PATCHES, PIXELS, VIDEO_PIXELS
from sizes import HERE, full_config, sizes
from talker import Talker
from thinker import CELLS, FRAMES, Thinker, sound_tokens

TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% elif part.type == 'audio' %}<|audio_start|><|audio_pad|><|audio_end|>{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def check(model, talker, codec, thinker, v):
    """What was trained through functions of our own must be what transformers computes."""
    errors = {}
    if talker:
        x = torch.randn(1, 40, v["t_hidden"])
        cos, sin = talker.rope(torch.arange(40)[None, :, None].expand(1, -1, 3))
        a = talker.core(x, cos, sin, torch.ones(40, 40, dtype=torch.bool).tril()[None, None], False)[0]
        errors["talker"] = relative(a, model.talker.model(inputs_embeds=x).last_hidden_state)
        x = torch.randn(2, v["groups"], v["t_hidden"])
        errors["predictor"] = relative(talker.predict_core(x), model.talker.code_predictor.model(inputs_embeds=x).last_hidden_state)
    if codec:
        codes = torch.randint(0, v["codebook"], (1, 30, v["groups"]))
        y = codec.decoder(codec.embed(codes)).clamp(-1, 1)
        errors["code2wav"] = relative(y, model.code2wav(codes.transpose(1, 2)).reshape(1, -1))
    if thinker:
        frames = torch.tensor([340])
        mel = torch.rand(1, 128, FRAMES) * (torch.arange(FRAMES) < 340)
        a, n = thinker.audio(mel, frames)[0][0], int(sound_tokens(340))
        errors["audio encoder"] = relative(a[:n], model.thinker.audio_tower(mel[0, :, :340], feature_lens=frames).last_hidden_state)
        h, w = 12, 14
        pixels = torch.zeros(1, 2, MOST_PATCHES, 768, dtype=torch.uint8)
        pixels[:, :, :h * w] = torch.randint(0, 256, (1, 2, h * w, 768))
        p, deep = thinker.vision(pixels, torch.tensor([thinker.grids.number[h, w]]))
        values = (pixels[0, :, :h * w].float() / 127.5 - 1).view(2, h * w, 3, 256).permute(1, 2, 0, 3).reshape(h * w, -1)
        o = model.thinker.visual(values, torch.tensor([[1, h, w]]))
        errors["vision encoder"] = max(relative(p[0, :h * w // 4], o.pooler_output), relative(deep[0][0, :h * w // 4], o.deepstack_features[0]))
        # a picture and a sound in one row, as inputs that transformers lays out itself
        c, cells = model.config.thinker_config, h * w // 4
        ids = torch.tensor([[5, c.vision_start_token_id] + [c.image_token_id] * cells + [c.vision_end_token_id, c.audio_start_token_id] + [c.audio_token_id] * n + [c.audio_end_token_id, 7, 8]])
        T = ids.shape[1]
        position = model.thinker.get_rope_index(ids, torch.tensor([[1, h, w]]), None, torch.ones_like(ids), False, frames, None)[0]
        row = thinker.text(ids, position.permute(1, 2, 0), torch.zeros_like(ids), a[:n], torch.arange(n) + cells + 4, p[0, :cells], torch.arange(cells) + 2, [d[0, :cells] for d in deep])[0]
        logits = model.thinker(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=values, image_grid_thw=torch.tensor([[1, h, w]]), input_features=mel[:, :, :340],
                               feature_attention_mask=torch.ones(1, 340, dtype=torch.long)).logits
        errors["thinker"] = relative(model.thinker.lm_head(row), logits)
    for name, e in errors.items():
        print(f"{name}: {e:.1e} from transformers")
        assert e < 1e-4, name


def write_processor_files(out):
    tok = json.load(open(os.path.join(HERE, "tokenizer.json"), encoding="utf-8"))
    write = lambda name, value: json.dump(value, open(f"{out}/{name}", "w", encoding="utf-8"), ensure_ascii=False, indent=1)
    shutil.copy(os.path.join(HERE, "tokenizer.json"), out)
    write("tokenizer_config.json", dict(
        tokenizer_class="Qwen2TokenizerFast", eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096, add_prefix_space=False, errors="replace",
        clean_up_tokenization_spaces=False, split_special_tokens=False,
        extra_special_tokens=dict(image_token="<|image_pad|>", audio_token="<|audio_pad|>", video_token="<|video_pad|>", vision_bos_token="<|vision_start|>",
                                  vision_eos_token="<|vision_end|>", audio_bos_token="<|audio_start|>", audio_eos_token="<|audio_end|>"),
        added_tokens_decoder={str(a["id"]): {k: a[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")} for a in tok["added_tokens"]}))
    write("vocab.json", tok["model"]["vocab"])
    with open(f"{out}/merges.txt", "w", encoding="utf-8") as f:
        f.write("#version: 0.2\n" + "\n".join(m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]) + "\n")
    write("preprocessor_config.json", dict(
        feature_extractor_type="WhisperFeatureExtractor", processor_class="Qwen3OmniMoeProcessor", feature_size=128, sampling_rate=16000, hop_length=160, n_fft=400,
        n_samples=4800000, nb_max_frames=30000, chunk_length=300, padding_side="right", padding_value=0.0, dither=0.0, return_attention_mask=True,
        image_processor_type="Qwen2VLImageProcessor", image_mean=[0.5] * 3, image_std=[0.5] * 3, patch_size=16, temporal_patch_size=2, merge_size=2, min_pixels=PIXELS[0],
        max_pixels=PIXELS[1], size=dict(shortest_edge=PIXELS[0], longest_edge=PIXELS[1])))
    write("video_preprocessor_config.json", dict(
        video_processor_type="Qwen2VLVideoProcessor", image_mean=[0.5] * 3, image_std=[0.5] * 3, patch_size=16, temporal_patch_size=2, merge_size=2,
        size=dict(shortest_edge=VIDEO_PIXELS[0], longest_edge=VIDEO_PIXELS[1]), do_sample_frames=False))
    with open(f"{out}/chat_template.jinja", "w") as f:
        f.write(TEMPLATE)


@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("codec"); p.add_argument("talker"); p.add_argument("thinker"); p.add_argument("out")
    a = p.parse_args()
    from transformers import Qwen3OmniMoeForConditionalGeneration
    v = sizes()
    torch.manual_seed(0)
    model = Qwen3OmniMoeForConditionalGeneration(full_config(v)).float().eval()
    for name, q in sorted(model.named_parameters()):                # parts that stay random keep their activations in bounds
        if q.dim() >= 2 and "embed" not in name:
            q.normal_(0, 0.9 * max(1, q[0].numel()) ** -0.5)
    talker = codec = thinker = None
    stored = lambda path: {k: t.float() for k, t in torch.load(path, map_location="cpu", weights_only=True)["model"].items()}
    if a.talker != "-":
        talker = Talker(v).eval()
        talker.load_state_dict(stored(a.talker))
        model.talker.load_state_dict(talker.talker.state_dict())
        model.thinker.get_input_embeddings().weight.copy_(talker.text.weight)
    if a.codec != "-":
        codec = load_codec(a.codec, v, "cpu")
        model.code2wav.load_state_dict(codec.decoder.w.state_dict())
    if a.thinker != "-":
        thinker = Thinker(v).eval()
        thinker.load_state_dict(stored(a.thinker))
        table = thinker.thinker.get_input_embeddings().weight
        if talker and relative(table, talker.text.weight) > 0.02:
            raise SystemExit(f"{a.thinker} was trained with another token table than {a.talker}")
        model.thinker.load_state_dict(thinker.thinker.state_dict())
    model.set_attn_implementation("eager")
    check(model, talker, codec, thinker, v)
    os.makedirs(a.out, exist_ok=True)
    model.save_pretrained(a.out, max_shard_size="40MB")
    write_processor_files(a.out)
    print(f"{a.out}: {sum(q.numel() for q in model.parameters()) / 1e6:.1f} million parameters")


if __name__ == "__main__":
    main()
