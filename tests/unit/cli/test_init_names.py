"""`opsd init`: the name of the config that it writes."""

from __future__ import annotations

from pathlib import Path

from tests.support.cli import Opsd

INIT = "init --model model --data good.jsonl"


def test_init_takes_the_name_of_the_config_as_an_option_too(opsd: Opsd, tmp_path: Path) -> None:
    assert opsd("init --out mine.yaml")[0] == 0
    assert (tmp_path / "mine.yaml").is_file() and not (tmp_path / "opsd.yaml").exists()
    code, _, err = opsd("init one.yaml --out two.yaml")
    assert code == 2 and "two configs are named: one.yaml and --out two.yaml" in err


def test_init_beside_an_existing_config_shows_the_command_with_another_name(
    opsd: Opsd, tmp_path: Path
) -> None:
    (tmp_path / "opsd.yaml").write_text("seed: 1\n")
    code, _, err = opsd(INIT)
    assert code == 2 and "opsd.yaml exists already" in err
    assert "opsd init OTHER.yaml --model model --data good.jsonl" in err
