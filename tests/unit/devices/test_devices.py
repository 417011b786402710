"""How many devices a command uses, and what it refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from backends import Choice
from backends.interface import Capability
from backends.shared.placement import Placement, recognised
from opsd_cli.config.resolve import resolve
from opsd_cli.devices.hosts import run_on, without_hosts
from opsd_cli.devices.number import count, devices_of, ranks
from opsd_cli.errors import UsageError
from opsd_cli.processes.child_processes import OPSD, package_environment


class Stub:
    """A backend that says how many devices it has."""

    def __init__(self, devices: int, on_cpu: bool) -> None:
        self._found = Capability(True, "", devices=devices, on_cpu=on_cpu)

    def capability(self) -> Capability:
        return self._found


@pytest.fixture(autouse=True)
def without_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MLX_RANK"):
        monkeypatch.delenv(name, raising=False)


def of(monkeypatch: pytest.MonkeyPatch, backend: Stub) -> None:
    monkeypatch.setattr("backends.choose", lambda name: Choice(name, ""))
    monkeypatch.setattr("backends.get", lambda name: backend)


def test_values_of_the_flag() -> None:
    assert [devices_of(each) for each in (None, "1", "8", "auto")] == [1, 1, 8, "auto"]
    for wrong in ("0", "-1", "two", ""):
        with pytest.raises(UsageError, match="--devices is"):
            devices_of(wrong)


def test_auto_takes_every_gpu_and_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of(monkeypatch, Stub(4, on_cpu=False))
    config = resolve(None, (), {})
    assert count("auto", config) == 4
    assert count(3, config) == 3
    with pytest.raises(UsageError, match="asks for 5, and backend 'auto' sees 4"):
        count(5, config)
    assert ranks(5, config) == 5  # a plan may be of another machine


def test_processes_may_share_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    of(monkeypatch, Stub(1, on_cpu=True))
    assert count("auto", resolve(None, (), {})) == 1
    assert count(6, resolve(None, (), {})) == 6


def test_exact_sums_need_a_number_that_divides_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    of(monkeypatch, Stub(8, on_cpu=False))
    config = resolve(None, ["train.reduce=exact"], {})
    assert count(8, config) == 8
    with pytest.raises(UsageError, match="8 units, which 6 ranks cannot share"):
        count(6, config)
    # Of a launcher too, whose number of processes is the number of ranks.
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="8 units, which 3 ranks cannot share"):
        count(1, config)


def test_arguments_without_hosts() -> None:
    given = ["train", "--hosts", "a.json", "--set", "x=1", "--hosts=b.json", "--json"]
    assert without_hosts(given) == ["train", "--set", "x=1", "--json"]


def test_a_missing_host_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no host file .*none\.json"):
        run_on(tmp_path / "none.json", [])


def test_hosts_are_refused_within_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts.json").write_text("[]")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun has started this process already"):
        run_on(tmp_path / "hosts.json", [])


def test_placement_in_mlx_launch(tmp_path: Path) -> None:
    hosts = tmp_path / "ring.json"
    hosts.write_text('[["10.0.0.1:5000"], ["10.0.0.2:5000"]]')
    values = {"MLX_RANK": "1", "MLX_HOSTFILE": str(hosts)}
    assert recognised(values) == Placement(1, 2, 0, 1, "mlx.launch")
    hosts.write_text("\n")  # of a single host
    assert recognised(values | {"MLX_RANK": "0"}) == Placement()
    with pytest.raises(UsageError, match="MLX_RANK is set"):
        recognised({"MLX_RANK": "0", "MLX_HOSTFILE": str(tmp_path / "none")})


def test_variables_without_a_meaning_are_one_error_line_of_any_command() -> None:
    environment = package_environment() | {"RANK": "one", "WORLD_SIZE": "2"}
    done = subprocess.run([*OPSD, "doctor"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: RANK is 'one', not a number"
    assert "Traceback" not in done.stderr
