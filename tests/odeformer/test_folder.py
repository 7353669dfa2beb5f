from pathlib import Path

import pytest

from odeformer.folder import check_output


def test_nothing_is_written_over_by_accident(tmp_path: Path) -> None:
    there, empty = tmp_path / "there", tmp_path / "empty"
    for folder in (there, empty):
        folder.mkdir()
    (there / "precious").write_text("x")
    check_output(empty, [there], overwrite=False)
    check_output(tmp_path / "new", [there], overwrite=False)
    check_output(there, [empty], overwrite=True)
    with pytest.raises(ValueError, match="is there already"):
        check_output(there, [], overwrite=False)
    with pytest.raises(ValueError, match="is not a folder"):
        check_output(there / "precious", [], overwrite=True)
    with pytest.raises(ValueError, match="is what is read from"):
        check_output(tmp_path / "new" / ".." / "there", [there], overwrite=True)
