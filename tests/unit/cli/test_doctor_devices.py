"""`opsd doctor`: the devices, and which of them exchange directly."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from backends.interface import Capability, Device
from opsd_cli.cli.doctor import device_lines
from tests.support.cli import Opsd
from tests.support.fakes import FakeBackend

GIB = 2**30
#: Two pairs, of which one device of each sees the other pair's first, but not the reverse.
PAIRS = ((1, 2), (0,), (3,), (2,))


def capability(reaches: tuple[tuple[int, ...], ...]) -> Capability:
    cards = tuple(Device(f"Card {n}", (80 - n) * GIB, each) for n, each in enumerate(reaches))
    return Capability(True, "cards", on_cpu=False, devices=len(cards), each_device=cards)


def test_doctor_lists_each_device_and_the_pairs_that_exchange_directly(
    opsd: Opsd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeBackend, "capability", lambda _: capability(PAIRS))
    code, out, _ = opsd("doctor")
    lines = out.splitlines()
    start = lines.index("devices: 4; --devices shares a run among them")
    assert code == 0
    assert lines[start + 1 : start + 6] == [
        "  0  Card 0, 80.0 GiB", "  1  Card 1, 79.0 GiB", "  2  Card 2, 78.0 GiB",
        "  3  Card 3, 77.0 GiB", "  direct exchange: the pairs 0-1, 2-3, and no other",
    ]  # fmt: skip
    found = json.loads(opsd("doctor --json")[1])["backends"]["cpu"]["each_device"]
    assert found[0] == {"name": "Card 0", "memory": 80 * GIB, "reaches": [1, 2]}


@pytest.mark.parametrize(
    ("reaches", "last"),
    [
        (((1,), (0,)), "  direct exchange: every pair"),
        (((), ()), "  direct exchange: no pair"),
        (((),), "  0  Card 0, 80.0 GiB"),
    ],
)
def test_doctor_s_line_about_direct_exchange(
    reaches: tuple[tuple[int, ...], ...], last: str
) -> None:
    devices = [vars(device) for device in capability(reaches).each_device]
    facts = {"auto": {"name": "x"}, "backends": {"x": {"each_device": devices}}}
    assert device_lines(facts)[-1] == last


def test_cuda_s_capability_names_each_gpu_and_those_it_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    from backends.pytorch.backend import CudaBackend

    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties",
        lambda number: SimpleNamespace(name=f"GPU {number}", total_memory=(number + 1) * GIB),
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda one, other: one + other == 1)
    assert CudaBackend().capability().each_device == (
        Device("GPU 0", GIB, (1,)), Device("GPU 1", 2 * GIB, (0,)), Device("GPU 2", 3 * GIB),
    )  # fmt: skip
