"""Read a part of a source, whatever kind it is, as one text after the other."""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.building import hugging_face
from data.building.parts import Part
from data.building.records import checked_text, json_lines, parquet_column, text_of_line
from data.building.tars import tar_texts
from data.corpus import BLOCK, cut


@contextmanager
def fetched(part: Part, folder: Path) -> Iterator[str]:
    """Give the path of a part's file: its own, or that of a copy in `folder` for as long as it is needed.

    Raises OSError, in one line, when a remote store does not give the file.
    """
    if not part.is_remote:
        yield part.path
        return
    import fsspec

    with tempfile.TemporaryDirectory(dir=folder, prefix="fetched-") as place:
        try:
            store, remote = fsspec.url_to_fs(part.path)
            store.get_file(remote, f"{place}/copy")
        except Exception as error:  # noqa: BLE001 (each store has errors of its own)
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(f"{part.name} could not be fetched ({reason}): build again to go on") from None
        yield f"{place}/copy"


def texts(part: Part, path: str) -> Iterator[str]:
    """Yield the texts of a part, blank ones included; `path` is where its file is.

    Raises ValueError, in one line, for what is not text.
    """
    name = part.name if part.is_remote else part.path
    if part.kind == "hf":
        values = hugging_face.read_shard(part.path, part.config, part.split, part.field, part.start)
        yield from _checked(f"hf:{part.path} shard {part.start}", part.field, enumerate(values))
    elif part.kind == "parquet":
        yield from _checked(name, part.field, parquet_column(path, part.field, part.start, part.end))
    else:
        with _opened(path, part.compression) as stream:
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
    """Count the lines before a byte: only needed to say where a mistake is."""
    lines = 1
    with _opened(path, compression) as stream:
        while offset > 0 and (block := stream.read(min(offset, BLOCK))):
            lines += block.count(b"\n")
            offset -= len(block)
    return lines


def _checked(name: str, field: str, values: Iterator[tuple[Any, Any]]) -> Iterator[str]:
    for place, value in values:
        try:
            text = checked_text(value, field)
        except ValueError as error:
            raise ValueError(f"{name}: row {place} {error}") from None
        yield text


def _opened(path: str, compression: str | None) -> io.BufferedReader:
    """Open a file for its bytes as they were before compression. Broken ones raise OSError when read."""
    if compression is None:
        return Path(path).open("rb")
    import pyarrow as pa

    # Unlike zstandard's own reader, it tells a zstd file that was cut short from a whole one.
    return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(path), compression), BLOCK)
