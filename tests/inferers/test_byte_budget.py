from __future__ import annotations

import pytest
import torch

from medsegdiff.errors import SpecError
from medsegdiff.inferers import byte_budget
from medsegdiff.inferers.byte_budget import FREE_SHARE, ByteBudget, format_bytes, free_bytes, parse_bytes

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (None, None),
        (1234, 1234),
        (1e9, 10**9),
        ("1234", 1234),
        ("2e9", 2 * 10**9),
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("512MiB", 2**29),
        ("512M", 512 * 10**6),
        ("3kB", 3000),
        ("1 TiB", 2**40),
        ("7B", 7),
    ],
)
def test_bytes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "8GBit", "-1", "1.2.3GB", 0, -5, "0.1", "inf", "8iB"])
def test_what_is_no_number_of_bytes_is_refused(text):
    with pytest.raises(SpecError, match=r"memory_budget is .*; give bytes, as a number or a text such as '8GB'"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7 bytes"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (5 * 2**40, "5120.0 GiB")]
)
def test_bytes_are_written(count, text):
    assert format_bytes(count) == text


def test_a_limit_is_for_the_networks_device_alone(monkeypatch):
    monkeypatch.setattr(byte_budget, "free_bytes", lambda device: 1000)
    cuda = torch.device("cuda:0")
    budget = ByteBudget(300, cuda)
    assert budget.available(cuda) == 300
    assert budget.available(CPU) == ByteBudget(None, cuda).available(cuda) == int(FREE_SHARE * 1000)


def test_a_container_may_leave_less_than_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(byte_budget, "_CGROUP", tmp_path)
    machine = free_bytes(CPU)
    assert machine > 2**20
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\ninactive_file 1200\nactive_file 300\n")
    assert free_bytes(CPU) == 5000 - 3000 + 1200
    (tmp_path / "memory.current").write_text("9000\n")
    assert free_bytes(CPU) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 2**20


def test_what_torch_keeps_for_itself_on_a_gpu_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert free_bytes(torch.device("cuda:0")) == 140
