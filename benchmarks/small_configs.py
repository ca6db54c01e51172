"""Small configurations of every architecture that transformers has for a kind of model.

A configuration keeps its defaults, but for sizes: those go by their name, which is much the same
everywhere, and lists with a value per layer keep a layer of each sort. What remains peculiar to one
architecture stands in `OVERRIDES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, NamedTuple

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from merging.kinds import ModelKind
from merging.serving import AUTO_CLASSES
from tests.tiny_tokenizer import SPECIAL

WORDS = tuple(f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou")
TOKENS = {
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "decoder_start_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
    "forced_eos_token_id": 3,
    "mask_token_id": 4,
}
VOCABULARY = len(SPECIAL) + len(WORDS)
WIDTH = 32
LAYERS = 4  # Enough for a layer of each sort.
IMAGE = 64  # Pixels of a side.
SIZES: tuple[tuple[int, str], ...] = (
    (VOCABULARY, "vocab_size unpadded_vocab_size src_vocab_size tgt_vocab_size"),
    (VOCABULARY, "decoder_vocab_size entity_vocab_size vocab_size_per_layer_input t2u_vocab_size"),
    (64, "max_position_embeddings n_positions n_ctx max_source_positions max_target_positions"),
    (
        64,
        "max_encoder_position_embeddings max_decoder_position_embeddings max_2d_position_embeddings",
    ),
    (
        64,
        "max_seq_len model_max_length original_max_position_embeddings encoder_hash_byte_group_vocab",
    ),
    (IMAGE, "image_size"),
    (WIDTH, "hidden_size d_model n_embd dim emb_dim embedding_size embed_dim word_embed_proj_dim"),
    (WIDTH, "projection_dim lru_width true_hidden_size d_latents hidden_size_global embedding_dim"),
    (
        WIDTH,
        "attention_hidden_size backbone_hidden_size out_hidden_size dim_model_base codebook_dim",
    ),
    (WIDTH, "input_embedding_size output_embedding_size cross_attention_hidden_size"),
    (
        48,
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff dff dim_ff n_inner d_inner",
    ),
    (48, "moe_intermediate_size shared_expert_intermediate_size intermediate_size_mlp hidden_dim"),
    (
        48,
        "ffn_hidden_size mlp_dim feed_forward_size expert_ffn_hidden_size dense_intermediate_size",
    ),
    (48, "shared_intermediate_size moe_shared_expert_intermediate_size router_hidden_size"),
    (48, "shared_experts_intermediate_size speech_encoder_intermediate_size"),
    (64, "mamba_d_ssm"),
    (LAYERS, "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers depth"),
    (LAYERS, "num_decoder_layers num_encoder_layers num_blocks"),
    (8, "head_dim kv_channels d_kv d_head attention_head_dim qk_nope_head_dim qk_rope_head_dim"),
    (8, "v_head_dim kv_lora_rank q_lora_rank o_lora_rank swa_head_dim index_head_dim patch_size"),
    (
        8,
        "linear_key_head_dim linear_value_head_dim linear_head_dim mamba_d_state state_size rotary_dim",
    ),
    (8, "mamba_d_head mamba_head_dim mamba_headdim mamba_n_heads ssm_state_size laurel_rank"),
    (8, "adapter_rank hidden_size_per_layer_input attention_head_size attention_window"),
    (
        4,
        "num_attention_heads n_head n_heads num_heads num_experts n_routed_experts moe_num_experts",
    ),
    (4, "num_local_experts swa_num_attention_heads num_self_attention_heads num_latents"),
    (4, "num_cross_attention_heads"),
    (2, "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_top_k moe_k"),
    (2, "n_shared_experts num_experts_per_token encoder_attention_heads decoder_attention_heads"),
    (2, "num_encoder_attention_heads num_decoder_attention_heads num_self_attends_per_block"),
    (2, "num_query_groups linear_num_key_heads linear_num_value_heads linear_num_heads"),
    (2, "n_mamba_heads swa_num_key_value_heads index_n_heads o_groups n_groups"),
    (1, "n_group topk_group num_nextn_predict_layers first_k_dense_replace decoder_sparse_step"),
    (1, "num_codebooks mamba_n_groups mamba_ngroups num_dense_layers"),
)
SIZE_OF = {name: size for size, names in SIZES for name in names.split()}
BOTH_ROPES = {
    name: {"rope_type": "default", "rope_theta": 10000.0}
    for name in ("full_attention", "sliding_attention")
}
HYBRID = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4}
SWIN = {"window_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "patch_size": 4}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "bit": {"num_groups": 4},
    "cohere_compass_text": {"rope_parameters": BOTH_ROPES},
    "cpmant": {"prompt_types": 4, "prompt_length": 4},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "donut-swin": SWIN,
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 4},
    "gemma3n_text": {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0] * LAYERS},
    "gpt_neo": {"attention_types": [[["global", "local"], LAYERS // 2]]},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2)},
    "hgnet_v2": {"hidden_sizes": [256, 512, 1024, 2048]},
    "hiera": {"image_size": [IMAGE, IMAGE], "embed_dim": 8, "num_heads": [1, 2, 4, 8]},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "jamba": HYBRID,
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": IMAGE},
    "levit": {"patch_size": 16, "hidden_sizes": [32, 64, 96]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * (LAYERS // 2)},
    "lilt": {"hidden_size": 48},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 8},
    "mobilevitv2": {"patch_size": 2, "base_attn_unit_dims": [32, 32, 32]},
    "mobilevit": {"patch_size": 2},
    "nemotron": {"num_key_value_heads": 2},
    "pvt": {"num_attention_heads": [1, 2, 4, 8]},
    "pvt_v2": {"num_attention_heads": [1, 2, 4, 8]},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 2,
    },
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16]},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {"hidden_sizes": [64, 64, 128, 256, 512]},
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "zamba": {**HYBRID, "attention_hidden_size": 64, "attention_head_dim": 16},
    "zaya": {"num_experts_per_tok": 1},
}


class Architecture(NamedTuple):
    """One class of transformers for a kind of model; `name` is the model type of its configuration."""

    kind: ModelKind
    name: str
    auto: Any

    @property
    def label(self) -> str:
        """How tables call it; generators that have a decoder alone and one with an encoder are two."""
        two = self.auto is AUTO_CLASSES[self.kind][-1] and len(AUTO_CLASSES[self.kind]) > 1
        return f"{self.name} (encoder and decoder)" if two else self.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes; transformers loads the first if a configuration says no other."""
        named = self.auto._model_mapping._model_mapping[self.name]  # noqa: SLF001
        return named if isinstance(named, tuple) else (named,)

    def config(self) -> PreTrainedConfig:
        """A small configuration that a model of this architecture can be made of."""
        config = shrunk(CONFIG_MAPPING[self.name]())
        config.architectures = [self.classes[0]]
        if self.kind.has_head:
            labels = {0: "dark", 1: "bright", 2: "grey"}
            config.id2label, config.label2id = labels, {name: i for i, name in labels.items()}
        elif self.auto is AUTO_CLASSES[self.kind][0]:
            config.is_encoder_decoder = False
            if hasattr(config, "is_decoder"):
                config.is_decoder = True
        return config


def architectures(kind: ModelKind) -> Iterator[Architecture]:
    """Every architecture that the installed transformers has for a kind."""
    for auto in AUTO_CLASSES[kind]:
        for name in sorted(auto._model_mapping._model_mapping):  # noqa: SLF001
            yield Architecture(kind, name, auto)


def shrunk(config: PreTrainedConfig) -> PreTrainedConfig:
    """The same configuration with small sizes, its parts' as well."""
    cls = type(config)
    declared = {name for c in cls.__mro__ for name in getattr(c, "__annotations__", {})}
    declared |= set(inspect.signature(cls.__init__).parameters)
    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    layers = values.get("num_hidden_layers", values.get("num_layers", values.get("n_layer")))
    small: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PreTrainedConfig):
            small[name] = shrunk(value)
        elif isinstance(value, list | tuple) and value:
            small.update(_short_list(name, list(value), layers))
        elif isinstance(value, int) and not isinstance(value, bool) and name in declared:
            small.update({name: SIZE_OF[name]} if name in SIZE_OF else {})
    if values.get("num_key_value_heads") == values.get("num_attention_heads"):
        small.update({"num_key_value_heads": 4} if "num_key_value_heads" in small else {})
    for name, token in TOKENS.items():
        needed = name == "pad_token_id" or values.get("is_encoder_decoder")
        if values.get(name) is not None or ("vocab_size" in values and needed):
            small.update({name: token} if name in declared or needed else {})
    return cls(**{**small, **OVERRIDES.get(config.model_type, {})})


def _short_list(name: str, value: list[Any], layers: Any) -> dict[str, Any]:
    """Lists of a value per stage of a vision model, or per layer."""
    if name in ("depths", "num_block_repeats"):
        return {name: [1] * len(value)}
    if name in ("hidden_sizes", "embed_dims"):
        return {name: [8 * 2**i for i in range(len(value))]}
    if name == "num_heads":
        return {name: [2] * len(value)}
    if isinstance(layers, int) and len(value) == layers > LAYERS:
        sorts = list(dict.fromkeys(value)) if not isinstance(value[0], list) else value
        return {name: (sorts + sorts[-1:] * LAYERS)[:LAYERS]}
    return {}
