"""Sign bits packed into 64-bit words, and distances between them (plain torch)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.search_ops import popcount

WORD = 64


def words_for(dim: int) -> int:
    """How many 64-bit words hold ``dim`` bits."""
    return -(-dim // WORD)


def pack_bits(bits: Tensor) -> Tensor:
    """bits [..., d] bool -> words [..., ceil(d / 64)] int64; bit j is bit j % 64 of word j // 64, the rest 0."""
    dim = bits.shape[-1]
    padded = torch.nn.functional.pad(bits, (0, words_for(dim) * WORD - dim))
    weights = torch.ones(WORD, dtype=torch.int64, device=bits.device) << torch.arange(WORD, device=bits.device)
    # Distinct powers of two add up without carry, so the sum (mod 2^64) is the bitwise or.
    return (padded.unflatten(-1, (-1, WORD)) * weights).sum(dim=-1)


def unpack_bits(words: Tensor, dim: int) -> Tensor:
    """The inverse of ``pack_bits``: words [..., W] -> bits [..., dim] bool."""
    bits = (words.unsqueeze(-1) >> torch.arange(WORD, device=words.device)) & 1
    return bits.flatten(-2)[..., :dim].bool()


def hamming(a: Tensor, b: Tensor) -> Tensor:
    """Number of different bits between codes a, b [..., W] int64 (broadcast) -> [...] int64."""
    return popcount(a ^ b).sum(dim=-1)
