"""The precision that a network computes in: float32, or bfloat16 where the device gains from it.

bfloat16 means PyTorch's automatic mixed precision: weights stay float32, products are computed in bfloat16. On a GPU
that is the whole network. On a CPU it is the encoder alone: the decoder's steps are small products, which are no
faster in bfloat16 there.
"""

import functools
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from ..config.precision import Precision

Resolved = Literal["float32", "bfloat16"]


def resolve(asked: Precision, encoder: nn.Module, device: torch.device) -> Resolved:
    """The precision that a network computes in on a device, where ``auto`` may have been asked for."""
    if asked != "auto":
        return asked
    if not has_bfloat16(device) or (device.type == "cpu" and is_depthwise(encoder)):
        return "float32"
    return "bfloat16"


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16, so that it does not emulate them."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    instructions = torch.cpu.get_capabilities()
    return bool(instructions.get("amx_bf16") or instructions.get("avx512_bf16"))


def is_depthwise(encoder: nn.Module) -> bool:
    """Whether an encoder has depthwise convolutions: a filter for each channel, which are limited by memory."""
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    return any(layer.groups == layer.in_channels > 1 for layer in convolutions)


def autocast(precision: Resolved, device: torch.device) -> AbstractContextManager[object]:
    """A block in which products are computed in this precision."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def prepare_for_reading(encoder: nn.Module, precision: Resolved) -> None:
    """Bring an encoder's weights, in place, to the order and the type in which its products take them.

    Otherwise each picture that is read by itself pays for both. Products are the same as under autocast. For a network
    that only reads: in bfloat16 its weights are rounded for good.
    """
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if precision == "bfloat16":
        for layer in encoder.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.to(torch.bfloat16)


def warn_if_slow(precision: Resolved, device: torch.device) -> None:
    """Print, once a process, that a device emulates the bfloat16 that was asked for."""
    if precision == "bfloat16" and not has_bfloat16(device):
        _warn(device.type)


@functools.cache
def _warn(kind: str) -> None:
    lacks = "this GPU has no bfloat16" if kind == "cuda" else "this CPU has neither AMX-BF16 nor AVX512-BF16"
    print(f"{lacks}: precision bfloat16 is slower here than float32", file=sys.stderr, flush=True)
