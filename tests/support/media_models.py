"""Small models with random weights for what is not a plain text: prompts, tables, images and audio."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.yolos.image_processing_pil_yolos import YolosImageProcessorPil

from pipeline_webserver.inference.loading import BUNDLED_MODEL

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
WIDE: dict[str, Any] = {**SIZES, "initializer_range": 0.5}
AUDIO: dict[str, Any] = {
    **WIDE,
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
END = "<|endoftext|>"


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def byte_tokenizer(**options: Any) -> Any:
    """A token for each byte, and one for the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate([*alphabet, END])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, **options)


def bundled_tokenizer(**options: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(BUNDLED_MODEL, **options)


def gpt2(folder: Path, **changes: Any) -> None:
    """No padding token, and 128 positions."""
    byte_tokenizer(model_max_length=128).save_pretrained(folder)
    options = {"vocab_size": 257, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    options |= {"bos_token_id": 256, "eos_token_id": 256}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**options, **changes})).save_pretrained(folder)


def llama(folder: Path, **changes: Any) -> None:
    """A padding token of its own, and rotary positions."""
    byte_tokenizer(pad_token="<pad>").save_pretrained(folder)
    options = {**WIDE, "vocab_size": 258, "max_position_embeddings": 512, "pad_token_id": 257, "eos_token_id": 256}
    config = transformers.LlamaConfig(**{**options, "bos_token_id": 256, **changes})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def tapas(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    vocabulary = bundled_tokenizer().get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    tokenizer = transformers.TapasTokenizer(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    options = {**WIDE, "vocab_size": len(tokenizer), "num_aggregation_labels": 4, "no_aggregation_label_index": 0}
    options["aggregation_labels"] = dict(enumerate(["NONE", "SUM", "AVERAGE", "COUNT"]))
    transformers.TapasForQuestionAnswering(transformers.TapasConfig(**{**options, **changes})).save_pretrained(folder)


def vit(folder: Path, **changes: Any) -> None:
    config = transformers.ViTConfig(**WIDE, image_size=32, patch_size=8, **{**labels("cat", "dog", "bird"), **changes})
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def vit_features(folder: Path, **changes: Any) -> None:
    transformers.ViTModel(transformers.ViTConfig(**WIDE, image_size=32, patch_size=8, **changes)).save_pretrained(
        folder
    )
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def yolos(folder: Path, **changes: Any) -> None:
    """Its images keep their proportions, so that their shapes differ."""
    options = {**WIDE, **labels("cat", "dog", "bird"), "image_size": [64, 64], "patch_size": 16}
    config = transformers.YolosConfig(**{**options, "num_detection_tokens": 5, **changes})
    transformers.YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)


def detr(folder: Path, **changes: Any) -> None:
    """A network of convolutions before its layers; its images keep their proportions, too."""
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    sizes: dict[str, Any] = {"d_model": 16, "num_queries": 5}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 32}
    config = transformers.DetrConfig(
        use_timm_backbone=False, backbone_config=backbone, **sizes, **labels("cat", "dog", "bird"), **changes
    )
    transformers.DetrForObjectDetection(config).save_pretrained(folder)
    DetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)


def segformer(folder: Path, **changes: Any) -> None:
    options = {**labels("sky", "ground", "tree"), "hidden_sizes": [8, 8, 16, 16], "decoder_hidden_size": 16}
    options |= {"depths": [1, 1, 1, 1], "num_attention_heads": [1, 1, 2, 2], "initializer_range": 0.5}
    config = transformers.SegformerConfig(**{**options, **changes})
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)


def wav2vec2(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.json").write_text(json.dumps({letter: index for index, letter in enumerate(letters)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    config = transformers.Wav2Vec2Config(**{**AUDIO, "vocab_size": len(letters), **changes})
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)


def whisper(folder: Path, **changes: Any) -> None:
    """A generative model of speech, two seconds at once."""
    vocabulary = byte_tokenizer().get_vocab()
    tokenizer = transformers.WhisperTokenizer(vocab=vocabulary, merges=[])
    tokenizer.add_tokens([tokenizers.AddedToken("<|startoftranscript|>", special=True)])
    tokenizer.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=2).save_pretrained(folder)
    sizes: dict[str, Any] = {"d_model": 32, "num_mel_bins": 8, "max_source_positions": 100, "max_target_positions": 24}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 2, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 64}
    start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    ends = dict.fromkeys(["pad_token_id", "bos_token_id", "eos_token_id"], 256)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), init_std=0.5, decoder_start_token_id=start, **{**sizes, **ends, **changes}
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config.max_length = 24
    model.save_pretrained(folder)


def wav2vec2_classifier(folder: Path, **changes: Any) -> None:
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    config = transformers.Wav2Vec2Config(**{**AUDIO, **labels("speech", "music", "noise", "silence"), **changes})
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)


def clip(folder: Path, **changes: Any) -> None:
    wide = {**SIZES, "initializer_factor": 5.0}
    text = {**wide, "vocab_size": 8192, "max_position_embeddings": 32, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**wide, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16, **changes)
    transformers.CLIPModel(config).save_pretrained(folder)
    bundled_tokenizer(model_max_length=32).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)


MAKERS: dict[str, Callable[..., None]] = {
    "text-generation": llama,
    "table-question-answering": tapas,
    "image-classification": vit,
    "object-detection": yolos,
    "image-segmentation": segformer,
    "image-feature-extraction": vit_features,
    "automatic-speech-recognition": wav2vec2,
    "audio-classification": wav2vec2_classifier,
    "zero-shot-image-classification": clip,
}


def make(maker: Callable[..., None], folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    maker(folder, **changes)
    return folder
