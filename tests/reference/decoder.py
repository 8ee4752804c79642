#!/usr/bin/env python3
"""A thinker of toy sizes and what the reference computes on it: tests/data/decoder.gguf and decoder.safetensors.

    decoder.py OUT_DIR [--seed N]

The sequence mixes tokens, given embeddings and deepstack features, with fractional three-part positions, and is longer than a
cache block. Needs torch, transformers (>= 5.17), gguf, safetensors.
"""
import argparse, os

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTextConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextModel

ROWS, MEDIA, DEEP, VOCAB, LAYERS = 70, 20, 2, 48, 3
NAMES = ["<|image_pad|>", "<|video_pad|>", "<|audio_pad|>", "<|vision_start|>", "<|vision_end|>", "<|audio_start|>", "<|audio_end|>",
         "<|im_start|>", "<|im_end|>"]


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out")
    a.add_argument("--seed", type=int, default=0)
    o = a.parse_args()
    torch.set_grad_enabled(False)
    gen = torch.Generator().manual_seed(o.seed)
    rand = lambda *shape: torch.randn(*shape, generator=gen)
    cfg = Qwen3OmniMoeTextConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=8, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        moe_intermediate_size=8, num_experts=4, num_local_experts=4, num_experts_per_tok=2, norm_topk_prob=True, decoder_sparse_step=1,
        rope_parameters=dict(rope_type="default", rope_theta=1e4, mrope_section=[2, 1, 1], interleaved=True), max_position_embeddings=4096,
        rms_norm_eps=1e-6)
    cfg._attn_implementation = "eager"
    model = Qwen3OmniMoeThinkerTextModel(cfg).float().eval()
    for name, p in sorted(model.named_parameters()):
        p.copy_(rand(*p.shape) * (1.0 if "embed" in name else 0.9 * p[0].numel() ** -0.5) if p.dim() >= 2 else 1 + 0.1 * rand(*p.shape))
    head = 0.25 * rand(VOCAB, 16)

    tokens = torch.randint(0, VOCAB - len(NAMES), (ROWS,), generator=gen)
    media = torch.arange(8, 8 + MEDIA)
    visual = media[4:16]
    embeddings, deepstack = rand(MEDIA, 16), rand(DEEP, len(visual), 16)
    positions = torch.arange(ROWS).float().repeat(3, 1)
    positions[0, 8:] += 1 / 3
    positions[1, media] = 8 + torch.arange(MEDIA).float() % 5
    positions[2, media] = 8 + torch.arange(MEDIA).float() % 3
    x = model.embed_tokens(tokens[None]).clone()
    x[0, media] = embeddings
    mask = torch.zeros(1, ROWS, dtype=torch.bool)
    mask[0, visual] = True
    r = model(inputs_embeds=x, attention_mask=torch.ones(1, ROWS, dtype=torch.long), position_ids=positions[:, None], visual_pos_masks=mask,
              deepstack_visual_embeds=list(deepstack), output_hidden_states=True, use_cache=False)
    ids = tokens.clone()
    ids[media] = -1
    save_file({k: np.ascontiguousarray(v.float().numpy()) for k, v in dict(
        tokens=ids, positions=positions.T, embeddings=embeddings, visual=visual, deepstack=deepstack,
        hidden=torch.cat(r.hidden_states), logits=r.last_hidden_state[0] @ head.T).items()}, os.path.join(o.out, "decoder.safetensors"))

    w = gguf.GGUFWriter(os.path.join(o.out, "decoder.gguf"), "qwen3vlmoe")
    for key, value in dict(block_count=LAYERS, embedding_length=16, expert_count=4, expert_used_count=2, expert_feed_forward_length=8,
                           context_length=4096, n_deepstack_layers=0).items():
        w.add_uint32("qwen3vlmoe." + key, value)
    w.add_head_count(2)
    w.add_head_count_kv(1)
    w.add_key_length(8)
    w.add_value_length(8)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(1e4)
    w.add_rope_dimension_sections([2, 1, 1, 0])
    w.add_token_list([f"t{i}" for i in range(VOCAB - len(NAMES))] + NAMES)
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    put = lambda name, value: w.add_tensor(name, np.ascontiguousarray(value, np.float32))
    put("token_embd.weight", state["embed_tokens.weight"])
    put("output.weight", head.numpy())
    put("output_norm.weight", state["norm.weight"])
    plain = dict(attn_norm="input_layernorm", ffn_norm="post_attention_layernorm", attn_q="self_attn.q_proj", attn_k="self_attn.k_proj",
                 attn_v="self_attn.v_proj", attn_output="self_attn.o_proj", attn_q_norm="self_attn.q_norm", attn_k_norm="self_attn.k_norm",
                 ffn_gate_inp="mlp.gate")
    for i in range(LAYERS):
        for to, name in plain.items():
            put(f"blk.{i}.{to}.weight", state[f"layers.{i}.{name}.weight"])
        gate, up = np.split(state[f"layers.{i}.mlp.experts.gate_up_proj"], 2, axis=1)
        put(f"blk.{i}.ffn_gate_exps.weight", gate)
        put(f"blk.{i}.ffn_up_exps.weight", up)
        put(f"blk.{i}.ffn_down_exps.weight", state[f"layers.{i}.mlp.experts.down_proj"])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main()
