"""The precision that a network computes in."""

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]

MEANING = (
    "auto: bfloat16 on a GPU that has it and on a CPU with AMX-BF16 or AVX512-BF16 (there in the encoder alone, and "
    "not in one of depthwise convolutions, which gains nothing), else float32."
)
