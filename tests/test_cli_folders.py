"""One command at a time in a folder of results: who is held off, and what is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lift_core.cli import folders, main
from lift_core.cli.folders import alone_in
from lift_core.records import CheckpointError

COMMANDS = (
    ["run", "quadratic", "--backend", "highs", "--no-controls"],
    ["compare", "--family", "direction", "--sizes", "5", "--rank", "0", "--backends", "highs"],
    ["select", "quadratic", "--budget", "0.5"],
    ["study", "ablations", "--seeds", "1", "--only", "LiFT"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_folder_in_use_is_left_alone(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone_in(tmp_path / "out"):
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        assert "another process is at work in" in capsys.readouterr().err
        assert not list((tmp_path / "out").iterdir())
    assert not (tmp_path / "out").exists(), "it was made for nothing"


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_file_in_place_of_a_folder_is_named(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main([*COMMANDS[0], "--out", str(tmp_path / out)]) == 2
    assert "--out: expected a folder, but" in capsys.readouterr().err


def test_the_loser_of_a_race_leaves_the_folder_to_the_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the folder and locking it another process gets the lock."""
    folder, flock, held = tmp_path / "out", folders.fcntl.flock, []

    def overtaken(handle: int, how: int) -> None:
        if not held:
            held.append(os.open(folder, os.O_RDONLY))
            flock(held[0], how)
        flock(handle, how)

    monkeypatch.setattr(folders.fcntl, "flock", overtaken)
    with pytest.raises(CheckpointError, match="another process"), alone_in(folder):
        pass
    assert folder.is_dir()
    os.close(held[0])


def test_a_folder_that_went_away_while_it_was_locked_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = folders.fcntl.flock
    monkeypatch.setattr(folders.fcntl, "flock", lambda *how: ((tmp_path / "out").rmdir(), flock(*how)))
    with pytest.raises(CheckpointError, match="has just removed"), alone_in(tmp_path / "out"):
        pass


def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    hold = "import sys, pathlib, time\nfrom lift_core.cli.folders import alone_in\n"
    hold += "with alone_in(pathlib.Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="another process"), alone_in(tmp_path):
            pass
        process.kill()
    with alone_in(tmp_path):
        assert not list(tmp_path.iterdir())
