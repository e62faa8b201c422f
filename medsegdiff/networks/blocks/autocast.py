"""Mixed precision on any device, as one context."""

from __future__ import annotations

import contextlib

import torch

from medsegdiff.errors import SpecError

AMP_CHOICES = ("auto", "bf16", "fp16", "off")


def amp_dtype(device: torch.device, amp: str) -> torch.dtype | None:
    """The half type that `amp` means on `device`, or None for full precision.

    "auto" is bf16 where the hardware computes in it (fp16 on older GPUs) and full precision elsewhere: without
    instructions of its own, bf16 on a CPU is slower than float32.

    Raises:
        SpecError: `amp` is none of `AMP_CHOICES`, or fp16 is asked for on a CPU.
    """
    if amp not in AMP_CHOICES:
        msg = f"amp {amp!r} does not exist; use one of {', '.join(AMP_CHOICES)}"
        raise SpecError(msg)
    if amp == "off":
        return None
    if amp == "fp16" and device.type == "cpu":
        msg = "amp 'fp16' was asked for on a CPU, which computes in bf16 only; use amp 'bf16' or 'auto'"
        raise SpecError(msg)
    if amp != "auto":
        return torch.bfloat16 if amp == "bf16" else torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device.type == "cpu":
        # Asked of the CPU through a private function: torch has no public one (2.6 to 2.13).
        supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
        return torch.bfloat16 if supported else None
    return None


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[None]:
    """A context in which networks compute in the half type that `amp` means on `device`."""
    dtype = amp_dtype(device, amp)
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)
