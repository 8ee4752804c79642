"""Sizes of the small model, the published configuration made of them, and its reduced vocabulary."""
import json, os

HERE = os.path.dirname(os.path.abspath(__file__))
RATE, FRAME = 24000, 1920                       # samples a second, samples a frame of codes
VOICES = ["chelsie", "ethan", "aiden"]

SIZES = dict(
    # thinker: text, audio and vision parts
    hidden=256, layers=6, heads=4, kv=2, head_dim=64, mrope=[12, 10, 10], moe=128, experts=4, topk=2, accept=1,
    a_d=192, a_layers=5, a_heads=4, a_ffn=768, a_down=32,
    v_d=128, v_layers=4, v_heads=4, v_ffn=512, v_deep=[1], v_grid=12,
    # talker, code predictor, code2wav
    t_hidden=256, t_layers=5, t_heads=4, t_kv=2, t_moe=192, t_shared=256, t_experts=4, t_topk=2,
    p_layers=2, p_heads=4, p_kv=2, p_ffn=512, codebook=256, groups=16,
    w_hidden=192, w_layers=3, w_heads=4, w_ffn=512, w_window=24, w_dim=320,
    encoder=384, critics=32)                    # training only: width of the codec's encoder, of its discriminators

TOY = dict(SIZES, layers=3, heads=2, kv=1, moe=32, a_d=32, a_layers=1, a_heads=2, a_ffn=32, a_down=4, v_d=32, v_layers=2, v_heads=2, v_ffn=32,
           t_hidden=64, t_layers=2, t_heads=2, t_kv=1, head_dim=32, mrope=[6, 5, 5], t_moe=32, t_shared=32, t_experts=2, p_layers=1, p_heads=2, p_kv=1, p_ffn=64,
           codebook=16, groups=4, w_hidden=32, w_layers=1, w_heads=2, w_ffn=32, w_dim=64, hidden=64, encoder=48, critics=4)


def sizes():
    """SIZES, or those of the environment variable OMNI_SIZES: toy, or a JSON file with what is to differ."""
    name = os.environ.get("OMNI_SIZES")
    return SIZES if not name else TOY if name == "toy" else dict(SIZES, **json.load(open(name)))


def tokenizer():
    """(tokenizers.Tokenizer, ids by token, vocabulary size in rows): the first merges of Qwen's vocabulary and its special tokens."""
    from tokenizers import Tokenizer
    path = os.path.join(HERE, "tokenizer.json")
    t = json.load(open(path, encoding="utf-8"))
    ids = {a["content"]: a["id"] for a in t["added_tokens"]} | t["model"]["vocab"]
    return Tokenizer.from_file(path), ids, (max(ids.values()) + 1 + 31) // 32 * 32


def code2wav_config(v):
    from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeCode2WavConfig
    return Qwen3OmniMoeCode2WavConfig(**code2wav_fields(v))


def code2wav_fields(v):
    return dict(codebook_size=v["codebook"], num_quantizers=v["groups"], hidden_size=v["w_hidden"], intermediate_size=v["w_ffn"],
                num_hidden_layers=v["w_layers"], num_attention_heads=v["w_heads"], num_key_value_heads=v["w_heads"], sliding_window=v["w_window"],
                decoder_dim=v["w_dim"], upsample_rates=[8, 5, 4, 3], upsampling_ratios=[2, 2], max_position_embeddings=4096,
                rope_parameters=dict(rope_type="default", rope_theta=1e4))


def special_fields(ids):
    return dict(image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"], audio_token_id=ids["<|audio_pad|>"],
                audio_start_token_id=ids["<|audio_start|>"], audio_end_token_id=ids["<|audio_end|>"], vision_start_token_id=ids["<|vision_start|>"],
                vision_end_token_id=ids["<|vision_end|>"], position_id_per_seconds=13, seconds_per_chunk=2)


def rope_fields(v):
    return dict(rope_type="default", rope_theta=1e6, mrope_section=v["mrope"], interleaved=True)


def talker_fields(v, ids):
    top = v["codebook"]
    return dict(
        **special_fields(ids), accept_hidden_layer=v["accept"], num_code_groups=v["groups"], thinker_hidden_size=v["hidden"], spatial_merge_size=2,
        codec_pad_id=top + 4, codec_bos_id=top + 5, codec_eos_token_id=top + 6, codec_nothink_id=top + 11, codec_think_bos_id=top + 12,
        codec_think_eos_id=top + 13, speaker_id={name: top + 20 + i for i, name in enumerate(VOICES)},
        text_config=dict(vocab_size=top + 1024, hidden_size=v["t_hidden"], num_hidden_layers=v["t_layers"], num_attention_heads=v["t_heads"],
                         num_key_value_heads=v["t_kv"], head_dim=v["head_dim"], moe_intermediate_size=v["t_moe"],
                         shared_expert_intermediate_size=v["t_shared"], intermediate_size=v["t_shared"], num_experts=v["t_experts"],
                         num_local_experts=v["t_experts"], num_experts_per_tok=v["t_topk"], norm_topk_prob=True, rope_parameters=rope_fields(v),
                         max_position_embeddings=4096, rms_norm_eps=1e-6),
        code_predictor_config=dict(vocab_size=v["codebook"], hidden_size=v["t_hidden"], intermediate_size=v["p_ffn"], num_hidden_layers=v["p_layers"],
                                   num_attention_heads=v["p_heads"], num_key_value_heads=v["p_kv"], head_dim=v["head_dim"], num_code_groups=v["groups"],
                                   rope_parameters=dict(rope_type="default", rope_theta=1e6), rms_norm_eps=1e-6, max_position_embeddings=4096))


def full_config(v):
    """The whole Qwen3OmniMoeConfig."""
    from transformers import Qwen3OmniMoeConfig
    _, ids, vocab = tokenizer()
    return Qwen3OmniMoeConfig(
        enable_audio_output=True, im_start_token_id=ids["<|im_start|>"], im_end_token_id=ids["<|im_end|>"], system_token_id=ids["system"],
        user_token_id=ids["user"], assistant_token_id=ids["assistant"], tts_pad_token_id=ids["<tts_pad>"], tts_bos_token_id=ids["<tts_text_bos>"],
        tts_eos_token_id=ids["<tts_text_eod>"],
        thinker_config=dict(
            **special_fields(ids), user_token_id=ids["user"],
            text_config=dict(vocab_size=vocab, hidden_size=v["hidden"], intermediate_size=v["moe"], num_hidden_layers=v["layers"],
                             num_attention_heads=v["heads"], num_key_value_heads=v["kv"], head_dim=v["head_dim"], moe_intermediate_size=v["moe"],
                             num_experts=v["experts"], num_local_experts=v["experts"], num_experts_per_tok=v["topk"], norm_topk_prob=True,
                             decoder_sparse_step=1, rope_parameters=rope_fields(v), max_position_embeddings=4096, rms_norm_eps=1e-6),
            audio_config=dict(num_mel_bins=128, d_model=v["a_d"], encoder_layers=v["a_layers"], encoder_attention_heads=v["a_heads"],
                              encoder_ffn_dim=v["a_ffn"], output_dim=v["hidden"], downsample_hidden_size=v["a_down"], n_window=50, n_window_infer=800,
                              max_source_positions=100, conv_chunksize=500),     # 13 positions are used
            vision_config=dict(depth=v["v_layers"], hidden_size=v["v_d"], intermediate_size=v["v_ffn"], num_heads=v["v_heads"], patch_size=16,
                               temporal_patch_size=2, spatial_merge_size=2, in_channels=3, out_hidden_size=v["hidden"],
                               num_position_embeddings=v["v_grid"] ** 2, deepstack_visual_indexes=v["v_deep"])),
        talker_config=talker_fields(v, ids), code2wav_config=code2wav_fields(v))
