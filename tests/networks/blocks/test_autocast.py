"""Which half type a device computes in."""

from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.networks.blocks.autocast import AMP_CHOICES, amp_dtype, autocast

CPU = torch.device("cpu")


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, None)])
def test_auto_takes_bf16_on_a_cpu_that_computes_in_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert amp_dtype(CPU, "auto") is expected


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_takes_bf16_on_a_gpu_that_computes_in_it_and_fp16_on_others(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert amp_dtype(torch.device("cuda"), "auto") is expected


def test_named_types_are_taken_as_they_are():
    assert amp_dtype(CPU, "bf16") is torch.bfloat16
    assert amp_dtype(CPU, "off") is None
    assert amp_dtype(torch.device("cuda"), "fp16") is torch.float16


@pytest.mark.parametrize(("amp", "expected"), [("bf16", torch.bfloat16), ("off", torch.float32)])
def test_products_inside_the_context_have_that_type(amp, expected):
    x = torch.ones(2, 2)
    with autocast(CPU, amp):
        assert (x @ x).dtype == expected
    assert (x @ x).dtype == torch.float32


def test_what_does_not_exist_is_refused():
    with pytest.raises(SpecError, match=f"amp 'half' does not exist; use one of {', '.join(AMP_CHOICES)}"):
        amp_dtype(CPU, "half")
    with pytest.raises(SpecError, match="'fp16' was asked for on a CPU"):
        amp_dtype(CPU, "fp16")
