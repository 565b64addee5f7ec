from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest
import torch

from harden.errors import RunFolderError, UnsafeInputError
from harden.training.checkpoint import read_checkpoint, write_checkpoint


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("boom",))


def test_round_trip(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": {"c": [1, 2.5, "d", None, True]}}
    path = tmp_path / "deep" / "checkpoint.pt"
    write_checkpoint(state, path)
    found = read_checkpoint(path)
    assert torch.equal(found["a"], state["a"])
    assert found["b"] == state["b"]
    assert [entry.name for entry in path.parent.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter")])
def test_a_failing_write_leaves_the_old_one(
    failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint({"a": 1}, path)

    def half_a_file(state: object, target: IO[bytes]) -> None:
        target.write(b"half")
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_a_file)
        with pytest.raises(RunFolderError) as caught:
            write_checkpoint({"a": 2}, path)
    assert caught.value.hint
    assert read_checkpoint(path)["a"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_missing_damaged_and_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(RunFolderError, match="no checkpoint"):
        read_checkpoint(path)
    write_checkpoint({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_checkpoint(path)
    for content in ({"version": 99}, {"no": "version"}):
        torch.save(content, path)
        with pytest.raises(RunFolderError, match="version"):
            read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(RunFolderError):
        read_checkpoint(path)


def test_a_checkpoint_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"version": 1, "a": Bomb()}, path)
    with pytest.raises(UnsafeInputError):
        read_checkpoint(path)
    assert capsys.readouterr().out == ""
