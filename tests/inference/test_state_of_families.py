"""Which families of the pinned transformers change themselves in a pass: a new one shows itself here."""

import pytest
import transformers

from tests.support.module_scan import scan

PINNED = "5.24.0"
# What a pass replaces, by the reason for it. `ModuleState` puts all of it back behind each pass, needed or not.
POSITIONS_OF_PICTURES = [
    "cohere_compass",
    "cosmos3_edge",
    "cosmos3_omni",
    "ernie4_5_vl_moe",
    "glm46v",
    "glm4v",
    "glm4v_moe",
    "glm_ocr",
    "hunyuan_vl",
    "hy_v4_vl",
    "minicpmv4_7",
    "paddleocr_vl",
    "qwen2_5_omni",
    "qwen2_5_vl",
    "qwen2_vl",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_omni_moe",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen4_exp",
]
# The rows that are there already stay as they are, so this one is harmless.
TABLES_THAT_GROW = [
    "kosmos2",
    "kosmos2_5",
    "m2m_100",
    "musicgen",
    "musicgen_melody",
    "speech_to_text",
    "speecht5",
    "trocr",
    "xglm",
]
REPLACED: dict[str, str] = {
    **dict.fromkeys(POSITIONS_OF_PICTURES, "rope_deltas"),
    "glm_image": "_cached_decode_position_ids _prefill_len rope_deltas",
    **dict.fromkeys(TABLES_THAT_GROW, "weights"),
    "fsmt": "weight",
    "fastspeech2_conformer": "pos_enc",
    # Harmful: the next input is computed by what the last one left.
    "big_bird": "attention_type self",
    "bigbird_pegasus": "attention_type self",
    "clap": "shift_size window_size",
    "donut": "shift_size window_size",
    "swin": "shift_size window_size",
    "recurrent_gemma": "conv1d_state recurrent_states",
    "reformer": "num_buckets attention_seed feed_forward_seed",
    "seamless_m4t": "pe cached_rotary_positional_embedding cached_sequence_length current_modality main_input_name "
    "weights",
    "seamless_m4t_v2": "current_modality main_input_name weights",
    # Made anew where the length is another one.
    **dict.fromkeys(
        ("wav2vec2_bert", "wav2vec2_conformer"), "pe cached_rotary_positional_embedding cached_sequence_length"
    ),
    "clvp": "cached_rotary_positional_embedding cached_sequence_length",
    "funnel": "pooling_mult seq_len",
    "nllb_moe": "weights classifier expert_capacity input_dtype",
    "switch_transformers": "classifier input_dtype",
    # Moved to a device or a type.
    "bark": "codec_model",
    "bridgetower": "attn_mask",
    "ctrl": "pos_encoding",
    "esm": "atom_mask default_frames group_idx lit_positions af2_to_esm",
    # Notes that weights were scaled, which stays so: `ModuleState.settle`.
    "rwkv": "layers_are_rescaled",
    # In training only.
    "sew_d": "count",
    "udop": "expand relative_attention_bias",
    # Generate sound, which no task does.
    "moshi": "generated_audio_codes hf_device_map last_hidden_state",
    **dict.fromkeys(("gradium_phonon_tts", "pocket_tts"), "_latent_stats_frozen latent_stats_num_updates"),
}
# What a pass changes in place, which is put back for buffers only.
IN_PLACE: dict[str, str] = {
    "levit": "attention_bias_cache",  # by device: the same for every input
    "sew_d": "context_stack",  # in training only
    **dict.fromkeys(("gradium_phonon_tts", "pocket_tts"), "latent_mean latent_std"),  # generate sound
}


@pytest.mark.extended
@pytest.mark.skipif(transformers.__version__ != PINNED, reason=f"the lists are those of transformers {PINNED}")
def test_every_family_that_changes_itself_in_a_pass_is_known_with_a_reason() -> None:
    replaced, in_place = scan()
    assert replaced == {family: set(names.split()) for family, names in REPLACED.items()}
    assert in_place == {family: set(names.split()) for family, names in IN_PLACE.items()}
