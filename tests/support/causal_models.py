"""A small random model of each family that generates step by step, and of some that do not."""

from collections.abc import Callable
from typing import Any

import torch
import transformers

VOCABULARY = 500
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.5,
}
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
WIDE: dict[str, Any] = {**SIZES, **ENDS, "intermediate_size": 64, "max_position_embeddings": 256}
GROUPED: dict[str, Any] = {**WIDE, "num_key_value_heads": 2}
WINDOW = 8
EXPERTS: dict[str, Any] = {**GROUPED, "num_local_experts": 4}
GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_positions": 256,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.5,
    **ENDS,
}


def made(architecture: str, config: str, **settings: Any) -> Callable[[], Any]:
    """A maker of a model of these classes of transformers."""

    def make() -> Any:
        torch.manual_seed(0)
        return getattr(transformers, architecture)(getattr(transformers, config)(**settings)).eval()

    return make


FALCON: dict[str, Any] = {**SIZES, **ENDS, "max_position_embeddings": 256}
OPT: dict[str, Any] = {**SIZES, **ENDS, "ffn_dim": 64, "max_position_embeddings": 256, "word_embed_proj_dim": 32}
del OPT["initializer_range"]
BLOOM: dict[str, Any] = {**ENDS, "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "initializer_range": 0.5}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
SINKS: dict[str, Any] = {"head_dim": 8, "sliding_window": WINDOW, "rope_parameters": PLAIN_ROPE}
SHARED = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": made("LlamaForCausalLM", "LlamaConfig", **GROUPED),
    "qwen2": made("Qwen2ForCausalLM", "Qwen2Config", **GROUPED),
    "qwen2, windows in a layer": made(
        "Qwen2ForCausalLM",
        "Qwen2Config",
        **GROUPED,
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=1,
    ),
    "qwen3": made("Qwen3ForCausalLM", "Qwen3Config", **GROUPED, head_dim=8),
    "mistral": made("MistralForCausalLM", "MistralConfig", **GROUPED, sliding_window=WINDOW),
    "gemma2": made("Gemma2ForCausalLM", "Gemma2Config", **GROUPED, head_dim=8, sliding_window=WINDOW),
    "gemma3": made("Gemma3ForCausalLM", "Gemma3TextConfig", **GROUPED, head_dim=8, sliding_window=WINDOW),
    "gpt2": made("GPT2LMHeadModel", "GPT2Config", **GPT),
    "gptj": made("GPTJForCausalLM", "GPTJConfig", **GPT, rotary_dim=4),
    "gpt_neox": made("GPTNeoXForCausalLM", "GPTNeoXConfig", **WIDE),
    "opt": made("OPTForCausalLM", "OPTConfig", **OPT, init_std=0.5),
    "phi": made("PhiForCausalLM", "PhiConfig", **WIDE),
    "phi3": made("Phi3ForCausalLM", "Phi3Config", **GROUPED),
    "falcon": made("FalconForCausalLM", "FalconConfig", **FALCON),
    "falcon, new": made("FalconForCausalLM", "FalconConfig", **FALCON, new_decoder_architecture=True, num_kv_heads=2),
    "falcon, alibi": made("FalconForCausalLM", "FalconConfig", **FALCON, alibi=True),
    "bloom": made("BloomForCausalLM", "BloomConfig", **BLOOM, n_head=4),
    "bloom, six heads": made("BloomForCausalLM", "BloomConfig", **{**BLOOM, "hidden_size": 48}, n_head=6),
    "granite": made("GraniteForCausalLM", "GraniteConfig", **GROUPED),
    "gpt_oss": made("GptOssForCausalLM", "GptOssConfig", **EXPERTS, **SINKS),
    "mixtral": made("MixtralForCausalLM", "MixtralConfig", **EXPERTS),
    "qwen2_moe": made("Qwen2MoeForCausalLM", "Qwen2MoeConfig", **GROUPED, **SHARED, num_experts_per_tok=2),
}
