"""Files of strangers: refused within the limits, by what is wrong with them, while others are answered."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import socket
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from doors import LINES, Door
from fastapi import Request
from small_tasks import PAIRS
from waiting import wait_for

from cluster.door.files import FOLDER
from cluster.door.receiving import receive

BOUNDARY = "----boundary"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.jsonl", bytes(10**7))
    return file.getvalue()


def kept(door: Door) -> list[Path]:
    """All that is left of uploads, whole or not."""
    return sorted(path for path in (door.folder / "pool" / FOLDER).rglob("*") if path.is_file())


WIDE = json.dumps({str(number): 0 for number in range(10**5)}).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "words", "line"),
    [
        ("../train.jsonl", LINES, "not a plain one", None),
        ("/etc/train.jsonl", LINES, "not a plain one", None),
        ("..\\train.jsonl", LINES, "not a plain one", None),
        (".train.jsonl", LINES, "not a plain one", None),
        ("n" * 200 + ".jsonl", LINES, "not a plain one", None),
        ("train.parquet", LINES, "does not end in .jsonl, .ndjson, .csv, .tsv", None),
        ("train.txt", LINES, "does not end in .jsonl", None),
        ("train.jsonl.gz", gzip.compress(LINES, mtime=0), "does not end in .jsonl", None),
        ("bomb.jsonl", gzip.compress(bytes(10**7), mtime=0), "is not UTF-8", 1),
        ("zip.jsonl", zipped(), "line 1 is not", 1),
        ("wide.jsonl", WIDE, "has 100000 fields, more than 256", 1),
        ("wide.csv", b",".join(b"%d" % n for n in range(10**5)) + b"\n" + b"," * (10**5 - 1) + b"\n",
         "has 100000 fields, more than 256", 2),
        ("odd.csv", b"text,label\nred,color\nblue\n", "line 3 has 1 columns, the first line has 2", 3),
        ("bytes.tsv", b"text\tlabel\nred\tc\xf6lor\n", "is not UTF-8", 2),
        ("many.tsv", b"1\n" * (10**6 + 1), "has more than 1000000 lines", None),
        ("deep.jsonl", b"[" * 10**6 + b"\n", "is not JSON", 1),
        ("long.jsonl", LINES + b'{"text": "' + b"x" * 2**21 + b'"}\n', "is longer than 2097152 bytes", 17),
        ("large.jsonl", LINES * (2**22 // len(LINES) + 1), "larger than 4194304 bytes", None),
        ("empty.jsonl", b"", "no examples", None),
        ("blank.jsonl", b"\n\n", "no examples", None),
        ("list.jsonl", b"[1]\n", "is not a JSON object", 1),
        ("seven.jsonl", b'{"a": 1}\n' * 6 + b'{"a": \n', "seven.jsonl line 7 is not JSON", 7),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_refused(
    door: Door, name: str, content: bytes, words: str, line: int | None
) -> None:
    before = kept(door)
    with pytest.raises(openai.APIStatusError) as caught:
        door.client("docs").files.create(file=(name, content), purpose="fine-tune")
    error: Any = caught.value.body
    assert caught.value.status_code in (400, 413)
    assert (error["param"], error.get("line")) == ("file", line)
    assert words in error["message"]
    assert str(door.folder) not in error["message"]
    assert kept(door) == before


@pytest.mark.parametrize(("name", "between"), [("a.csv", ","), ("a.tsv", "\t"), ("a.ndjson", None)])
def test_a_table_of_text_is_trained_on(door: Door, name: str, between: str | None) -> None:
    rows = [("text", "label"), *PAIRS * 4]
    content = LINES if between is None else "".join(between.join(row) + "\n" for row in rows).encode()
    file = door.upload("docs", content, name)
    assert door.client("docs").files.content(file).content == content
    job = door.create("docs", file, suffix=f"of-{name[2:]}")
    door.client("docs").fine_tuning.jobs.cancel(job.id)
    assert job.training_file == file
    door.pool.wait(f"docs/of-{name[2:]}/1")
    door.client("docs").files.delete(file)


def form(*parts: tuple[str, str, bytes]) -> bytes:
    """A form of parts: name, further header, content."""
    lines = b""
    for name, more, content in parts:
        lines += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode()
        lines += content + b"\r\n"
    return lines + f"--{BOUNDARY}--\r\n".encode()


FILE = ("file", '; filename="a.jsonl"', LINES)
PURPOSE = ("purpose", "", b"fine-tune")


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"{}", "application/json", "multipart/form-data is expected"),
        (b"", "multipart/form-data", "multipart/form-data is expected"),
        (b"", f"multipart/form-data; boundary={BOUNDARY}", "malformed"),
        (b"x" * 10**5, f"multipart/form-data; boundary={BOUNDARY}", "malformed"),
        (form(PURPOSE), f"multipart/form-data; boundary={BOUNDARY}", "no file"),
        (form(FILE), f"multipart/form-data; boundary={BOUNDARY}", "purpose: 'fine-tune' is expected"),
        (form(FILE, FILE, PURPOSE), f"multipart/form-data; boundary={BOUNDARY}", "several files"),
        (form(FILE, *[("other", "", b"x")] * 1000), f"multipart/form-data; boundary={BOUNDARY}", "larger"),
        (form(FILE, ("purpose", "", b"x" * 10**6)), f"multipart/form-data; boundary={BOUNDARY}", "too long"),
        (form(FILE)[:-9], f"multipart/form-data; boundary={BOUNDARY}", "malformed"),
        (form(("file", '; filename="\xff', b"")), f"multipart/form-data; boundary={BOUNDARY}", ""),
    ],
)
def test_a_form_that_is_none_is_refused(door: Door, body: bytes, kind: str, words: str) -> None:
    answer = door.ask(door.keys["docs"], "POST", "/v1/files", data=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 413), answer.text
    assert words in answer.json()["error"]["message"]


def head(door: Door, framing: str) -> bytes:
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.keys['docs']}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n{framing}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("framing", "status"),
    [(f"Content-Length: {2**30}", 413), ("Transfer-Encoding: chunked", 411)],
)
def test_a_gigabyte_is_refused_before_it_is_read(door: Door, framing: str, status: int) -> None:
    before = kept(door)
    place = urlsplit(door.url)
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head(door, framing))
        assert connection.recv(12) == f"HTTP/1.1 {status}".encode()
    assert kept(door) == before


def test_a_key_has_only_so_many_bytes_of_uploads_open(door: Door) -> None:
    """A client that announces and does not send holds others of its key, and nobody else."""
    place = urlsplit(door.url)
    with socket.create_connection((place.hostname, place.port)) as slow:
        slow.sendall(head(door, f"Content-Length: {2**22}") + form(FILE)[:100])

        said: list[str] = []

        def is_refused() -> bool:
            try:
                door.upload("docs", LINES * (2**20 // len(LINES)))
            except openai.RateLimitError as error:
                said.append(str(error))
                return True
            return False

        wait_for(is_refused)
        assert "4718592 bytes of uploads of this key are open, the most: try again" in said[-1]
        door.client("sales").files.delete(door.upload("sales", LINES * (2**20 // len(LINES))))
        door.client("docs").files.delete(door.upload("docs"))
    wait_for(lambda: not is_refused())
    for file in door.client("docs").files.list():
        door.client("docs").files.delete(file.id)


def test_a_large_file_takes_no_memory_while_it_is_received(tmp_path: Path) -> None:
    begin, end = form(FILE, PURPOSE).split(LINES)
    messages = [begin, *[LINES * 100] * 1000, end]
    rest = iter(messages)

    async def message() -> dict[str, Any]:
        body = next(rest, b"")
        return {"type": "http.request", "body": body, "more_body": bool(body)}

    kind = f"multipart/form-data; boundary={BOUNDARY}".encode()
    request = Request({"type": "http", "headers": [(b"content-type", kind)]}, message)
    with (tmp_path / "received").open("w+b") as file:
        tracemalloc.start()
        with ThreadPoolExecutor() as threads:  # a browser of other tests has an event loop in this one
            received = threads.submit(asyncio.run, receive(request, file, 2**30)).result()
        assert received == ("a.jsonl", "fine-tune")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert file.tell() == 10**5 * len(LINES)
    assert peak < 2**23 < 10**5 * len(LINES) / 5


def test_a_team_keeps_so_many_files(door: Door) -> None:
    for _ in range(20 - len(list(door.client("triage").files.list()))):
        door.upload("triage")
    with pytest.raises(openai.BadRequestError, match="the team has 20 files, the most") as caught:
        door.upload("triage")
    assert caught.value.code == "storage_full"
    door.upload("docs")
    for file in door.client("triage").files.list():
        door.client("triage").files.delete(file.id)
