"""Reading a part of a source of any kind as a sequence of texts."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.building import hugging_face
from data.building.packed import opened
from data.building.parts import Part
from data.building.records import checked_text, json_lines, parquet_column, shown, text_of_line
from data.building.tars import tar_texts
from data.corpus import BLOCK, cut
from odeformer.files.errors import reason


@contextmanager
def fetched(part: Part, folder: Path) -> Iterator[str]:
    """Yield the path of a part's file; a remote file is downloaded to ``folder`` while the block runs.

    Raises:
        OSError: if a remote file cannot be downloaded.
    """
    if not part.is_remote:
        yield part.path
        return
    import fsspec

    with tempfile.TemporaryDirectory(dir=folder, prefix="fetched-") as place:
        try:
            store, remote = fsspec.url_to_fs(part.path)
            store.get_file(remote, f"{place}/copy")
        except Exception as error:  # noqa: BLE001 (every store has its own errors)
            raise OSError(
                f"{part.name} could not be fetched ({reason(error)}): build again to resume"
            ) from None
        yield f"{place}/copy"


def texts(part: Part, path: str) -> Iterator[str]:
    """Yield the texts of a part, including blank ones.

    Args:
        part: the part.
        path: the local path of its file.

    Raises:
        ValueError: for content that is not text.
    """
    name = part.name if part.is_remote else part.path
    if part.kind == "hf":
        values = hugging_face.read_shard(part.path, part.config, part.split, part.field, part.start)
        yield from _checked(f"hf:{part.path} shard {part.start}", part.field, enumerate(values))
    elif part.kind == "parquet":
        yield from _checked(name, part.field, parquet_column(path, part.field, part.start, part.end))
    else:
        with opened(path, part.compression) as stream:
            try:
                if part.kind == "text":
                    yield from cut(stream, name)
                elif part.kind == "tar":
                    yield from _checked(name, part.field, tar_texts(stream, name, part.field))
                else:
                    yield from _lines(part, path, name, stream)
            except (OSError, EOFError) as error:
                if part.compression is None:
                    raise
                raise ValueError(
                    f"{name} is not intact {part.compression} ({error}): fetch it again or leave it out"
                ) from None


def _lines(part: Part, path: str, name: str, stream: io.BufferedReader) -> Iterator[str]:
    for offset, line in json_lines(stream, part.start, part.end):
        try:
            text = text_of_line(line, part.field)
        except ValueError as error:
            raise ValueError(f"{name} line {_line_number(path, part.compression, offset)} {error}") from None
        yield text


def _line_number(path: str, compression: str | None, offset: int) -> int:
    """The line number of a byte, for an error message."""
    lines = 1
    with opened(path, compression) as stream:
        while offset > 0 and (block := stream.read(min(offset, BLOCK))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines


def _checked(name: str, field: str, values: Iterator[tuple[Any, Any]]) -> Iterator[str]:
    for place, value in values:
        try:
            text = checked_text(value, field)
        except ValueError as error:
            raise ValueError(f"{name}: row {shown([str(place)])} {error}") from None
        yield text
