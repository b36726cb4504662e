"""The attention of families that compute it by themselves, for packed steps: their own up to the scores, and after."""

import functools
import math
from typing import Any

import torch
from transformers.models.bloom.modeling_bloom import BloomAttention
from transformers.models.falcon.modeling_falcon import FalconAttention, apply_rotary_pos_emb

from pipeline_webserver.inference.generation.packed_attention import packed_attention


@functools.cache
def alibi_slopes(heads: int, device: torch.device) -> torch.Tensor:
    """The slope of each head's bias, `[heads]`: powers of two (https://arxiv.org/abs/2108.12409)."""
    power = 2 ** math.floor(math.log2(heads))
    base = 2 ** (-(2 ** -(math.log2(power) - 3)))
    slopes = [base ** (head + 1) for head in range(power)]
    between = 2 ** (-(2 ** -(math.log2(2 * power) - 3)))
    slopes += [between ** (2 * head + 1) for head in range(heads - power)]
    return torch.tensor(slopes, device=device)


def bloom_attention(
    self: BloomAttention,
    hidden_states: torch.Tensor,
    residual: torch.Tensor,
    alibi: torch.Tensor,
    attention_mask: torch.Tensor | None,
    layer_past: Any = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`hidden_states` `[1, tokens, hidden]`."""
    fused = self.query_key_value(hidden_states).unflatten(-1, (self.num_heads, 3, self.head_dim))
    query, key, value = (fused[..., part, :].transpose(1, 2) for part in range(3))
    key, value = layer_past.update(key, value, self.layer_idx)
    output, _ = packed_attention(
        self, query, key, value, None, scaling=self.inv_norm_factor, slopes=alibi_slopes(self.num_heads, query.device)
    )
    return residual + self.dense(output.flatten(2)), None


def falcon_attention(
    self: FalconAttention,
    hidden_states: torch.Tensor,
    alibi: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    layer_past: Any = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """`hidden_states` `[1, tokens, hidden]`."""
    parts = self._split_heads(self.query_key_value(hidden_states))
    query, key, value = (part.transpose(1, 2) for part in parts)
    slopes = None
    if alibi is None:
        assert position_embeddings is not None, "rotary positions"
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
    else:
        # The model's own are products in bfloat16, and scaled like the scores.
        slopes = alibi_slopes(self.num_heads, query.device) * self.inv_norm_factor
    key, value = layer_past.update(key, value, self.layer_idx)
    output, _ = packed_attention(self, query, key, value, None, scaling=self.inv_norm_factor, slopes=slopes)
    return self.dense(output.flatten(2)), None
