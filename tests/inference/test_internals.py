"""Each private name of transformers and torch does what this project takes it for: a version without it fails here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline_webserver.inference import internals
from tests.inference.conftest import ServeHub
from tests.support.families import NOT_UNPADDABLE, UNPADDABLE, make
from tests.support.media_models import gpt2
from tests.support.media_models import make as make_media_model
from tests.support.pipelines import load_pipeline


def test_stage_parameters_are_the_pipelines_own_and_those_of_a_call(model_of: Callable[[str], Path]) -> None:
    pipe: Any = transformers.pipeline("fill-mask", model=str(model_of("fill-mask")), device="cpu", top_k=3)
    assert internals.stage_parameters(pipe, {}) == ({}, {}, {"top_k": 3})
    options = {"truncation": True}
    assert internals.stage_parameters(pipe, {"top_k": 2, "tokenizer_kwargs": options}) == (
        {"tokenizer_kwargs": options},
        {},
        {"top_k": 2},
    )


def test_stage_parameters_reach_the_stage_that_they_are_for(model_of: Callable[[str], Path]) -> None:
    pipe = load_pipeline(model_of("text-generation"))
    preprocess, forward, postprocess = internals.stage_parameters(
        pipe, {"truncation": True, "max_new_tokens": 5, "return_full_text": False}
    )
    assert preprocess["truncation"] is True
    assert forward["max_new_tokens"] == 5
    assert "return_type" in postprocess


def test_generation_settings_are_those_of_the_call_the_model_and_the_pipeline(tmp_path: Path) -> None:
    pipe = load_pipeline(make_media_model(gpt2, tmp_path))
    settings = internals.generation_settings(pipe, {"max_new_tokens": 5, "repetition_penalty": 2.0})
    assert (settings["max_new_tokens"], settings["repetition_penalty"]) == (5, 2.0)
    assert settings["eos_token_id"] == pipe.model.generation_config.eos_token_id == 256
    assert internals.generation_settings(pipe, {})["max_new_tokens"] == 256  # as this kind of pipeline generates


def test_a_pipeline_knows_the_parts_that_it_needs() -> None:
    needs = {
        task: [
            part
            for part in ("tokenizer", "image_processor", "feature_extractor")
            if internals.needs_part(internals.pipeline_class(task), part)
        ]
        for task in ("fill-mask", "image-classification", "audio-classification", "zero-shot-image-classification")
    }
    assert needs == {
        "fill-mask": ["tokenizer"],
        "image-classification": ["image_processor"],
        "audio-classification": ["feature_extractor"],
        "zero-shot-image-classification": ["tokenizer", "image_processor"],
    }


@pytest.mark.parametrize("samples", [400, 8_000])
def test_a_model_of_the_raw_wave_knows_its_frames(samples: int, model_of: Callable[[str], Path]) -> None:
    model = load_pipeline(model_of("automatic-speech-recognition")).model
    with torch.no_grad():
        assert internals.audio_frames(model, samples) == model(torch.zeros(1, samples)).logits.shape[1]


def test_too_few_samples_make_no_frame(model_of: Callable[[str], Path]) -> None:
    frames = internals.audio_frames(load_pipeline(model_of("audio-classification")).model, 10)
    assert frames is not None
    assert frames < 1


def test_a_model_of_texts_has_no_frames() -> None:
    assert internals.audio_frames(make(UNPADDABLE["bert"]()), 100) is None


def test_a_model_that_looks_its_attention_up_is_known_and_so_is_the_name_of_it() -> None:
    bert = make(UNPADDABLE["bert"]())
    assert internals.can_set_attention(bert)
    assert internals.attention_of(bert) == "sdpa"
    bert.set_attn_implementation("eager")
    assert internals.attention_of(bert) == "eager"
    assert not internals.can_set_attention(make(NOT_UNPADDABLE["deberta-v2"]()))


def test_a_file_of_a_model_is_found_in_its_folder_or_is_none(model_of: Callable[[str], Path]) -> None:
    folder = model_of("fill-mask")
    assert internals.cached_path(str(folder), "config.json", None) == folder / "config.json"
    assert internals.cached_path(str(folder), "other.json", None) is None


def test_a_file_of_the_hub_is_found_or_is_none_also_where_the_hub_cannot_tell(
    model_of: Callable[[str], Path], serve_hub: ServeHub
) -> None:
    folder = model_of("fill-mask")
    with serve_hub({"team/model": folder}):
        found = internals.cached_path("team/model", "config.json", None)
        assert found is not None
        assert found.read_bytes() == (folder / "config.json").read_bytes()
        assert internals.cached_path("team/model", "other.json", None) is None
        with pytest.raises(OSError, match="team/none is not a local folder"):
            internals.cached_path("team/none", "config.json", None)
    assert internals.cached_path("team/model", "config.json", None) == found
    assert internals.cached_path("team/model", "vocab.txt", None) is None


@pytest.mark.parametrize("bias", [True, False])
def test_onednn_computes_a_linear_layer_with_a_plain_or_a_prepacked_weight(bias: bool) -> None:
    torch.manual_seed(0)
    layer, inputs = torch.nn.Linear(16, 24, bias=bias), torch.randn(4, 16)
    with torch.no_grad():
        packed = internals.onednn_prepack(layer.weight)
        expected = layer(inputs)
        for weight in (layer.weight, packed):
            assert torch.allclose(internals.onednn_linear(weight, layer.bias, inputs), expected, rtol=0, atol=1e-6)
    assert torch.equal(packed.to_dense(), layer.weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_onednn_supports_the_types_that_it_computes_on_this_cpu(dtype: torch.dtype) -> None:
    try:
        weight = internals.onednn_prepack(torch.ones(24, 16, dtype=dtype))
        internals.onednn_linear(weight, None, torch.ones(4, 16, dtype=dtype))
        computes = True
    except RuntimeError:
        computes = False
    assert internals.onednn_supports(dtype) is computes


def test_a_model_that_keeps_a_state_says_so() -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2}
    assert internals.keeps_state(transformers.RwkvForCausalLM(transformers.RwkvConfig(**sizes)))
    assert not internals.keeps_state(transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=2)))


def test_another_attention_is_looked_up_until_it_is_changed_back() -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = transformers.BertModel(transformers.BertConfig(**sizes))
    own, configs = internals.attention_of(model), internals.attention_configs(model)
    internals.use_attention(configs, "eager")
    assert internals.attention_of(model) == "eager" != own
    assert configs == [model.config]
    internals.use_attention(configs, own)
    assert internals.attention_of(model) == own
