from pathlib import Path

import pytest

from odeformer.files.atomic import new_file
from odeformer.files.checks import ADAPTER, CHECKPOINT, EXPORT, check_output, check_output_file


def test_nothing_is_written_over_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, empty = tmp_path / "there", tmp_path / "empty"
    for folder in (there, empty):
        folder.mkdir()
    (there / "adapter.json").write_text("x")
    check_output(empty, [there], False, ADAPTER)
    check_output(tmp_path / "new", [there], False, ADAPTER)
    check_output(there, [empty], True, ADAPTER)
    with pytest.raises(ValueError, match="is there already"):
        check_output(there, [], False, ADAPTER)
    with pytest.raises(ValueError, match="is not a folder"):
        check_output(there / "adapter.json", [], True, ADAPTER)
    with pytest.raises(ValueError, match="is the folder to read from"):
        check_output(tmp_path / "new" / ".." / "there", [there], True, ADAPTER)
    monkeypatch.chdir(there)
    with pytest.raises(ValueError, match="is the current folder"):
        check_output(Path(), [], True, ADAPTER)


def test_only_an_earlier_output_is_replaced(tmp_path: Path) -> None:
    others = tmp_path / "others"
    others.mkdir()
    (others / "config.json").write_text('{"model_type": "llama"}')
    for kind in (CHECKPOINT, EXPORT):
        with pytest.raises(ValueError, match=r"others is not .* that this program wrote"):
            check_output(others, [], True, kind)
    (others / "adapter.json").write_text("{}")
    with pytest.raises(ValueError, match=r"others holds 'config.json', which is no part of an adapter"):
        check_output(others, [], True, ADAPTER)


def test_nor_is_a_file(tmp_path: Path) -> None:
    there, source = tmp_path / "there", tmp_path / "source"
    there.write_text("x")
    source.mkdir()

    def ours(file: Path) -> bool:
        return file.read_text() == "x"

    check_output_file(tmp_path / "new", [source], False, ours)
    check_output_file(there, [source], True, ours)
    with pytest.raises(ValueError, match="is there already"):
        check_output_file(there, [], False, ours)
    with pytest.raises(ValueError, match="is a folder"):
        check_output_file(source, [], True, ours)
    with pytest.raises(ValueError, match="is the folder to read from"):
        check_output_file(tmp_path / "new" / ".." / "source" / "model.safetensors", [source], True, ours)
    there.write_text("a thesis")
    with pytest.raises(ValueError, match="was not written by this program"):
        check_output_file(there, [], True, ours)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"

    with new_file(file) as beside:
        beside.write_text("first")
    with pytest.raises(ValueError, match="no more"), new_file(file) as beside:
        beside.write_text("ha")
        raise ValueError("no more")
    assert file.read_text() == "first"
    with new_file(file) as beside:
        beside.write_text("second")
    assert file.read_text() == "second"
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_two_writers_of_a_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with new_file(file) as first:
        first.write_text("whole")
        with pytest.raises(ValueError, match="gave up"), new_file(file) as second:
            assert second != first
            second.write_text("ha")
            raise ValueError("gave up")
    assert file.read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(OSError, match=f"No space left on device: '{file}'"), new_file(file):
        Path("/dev/full").write_text("x")
    with pytest.raises(ConnectionError) as caught, new_file(file):
        raise ConnectionRefusedError(111, "Connection refused")
    assert str(caught.value) == "[Errno 111] Connection refused"
    assert list(tmp_path.iterdir()) == []
