from __future__ import annotations

from pathlib import Path

import pytest

from harden.errors import RunFolderError, WriteError
from harden.files import clear_temporaries, require_writable, write_whole, write_with


def test_writes_into_new_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    assert write_whole(path, "ü") == path
    write_whole(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("x"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise error

    expected = RunFolderError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write_with(path, fail)
    if isinstance(caught.value, RunFolderError):
        assert "No space left" in caught.value.message
        assert "--out" in (caught.value.hint or "")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(RunFolderError):
        write_whole(tmp_path / "a" / "b.txt", "x")


def test_undecodable_names_are_escaped(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a", "x\udcff").read_bytes() == b"x\\udcff"


def test_only_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    names = [f".a.json.{'0f' * 16}.tmp", "sub/.b.pt." + "a" * 32 + ".tmp", ".mine.tmp", "a.tmp", "a.json"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    clear_temporaries(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".mine.tmp", "a.tmp", "a.json"}


def test_a_folder_that_takes_no_file_is_known_before(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="Not a directory") as caught:
        require_writable(tmp_path / "file" / "new")
    assert "--out" in (caught.value.hint or "")
    with pytest.raises(WriteError, match="too long"):
        require_writable(tmp_path / ("a" * 300))
