"""Tables as other programs write them."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import io
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data.building import records
from data.tasks.example import Example
from data.tasks.examples import read_examples, read_task_sets

PLAIN = {"q": ["one", "two"], "a": ["x", "y"]}
EXPECTED = [Example("one", "x"), Example("two", "y")]


def _read(path: Path) -> list[Example]:
    return read_examples(path, "completion", "{q}", "{a}")


def test_columns_that_no_template_names_may_hold_anything(tmp_path: Path) -> None:
    odd = {"nested": {"site": "x", "ids": [1]}, "none": None, "half": "\ud83d", "q": "ignored", "": 1}
    lines = [odd | {"q": q, "a": a} for q, a in zip(*PLAIN.values(), strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "a.csv").write_text("q,a,twice,twice,\none,x,1,2,3\ntwo,y,,,\n", encoding="utf-8")
    table = PLAIN | {
        "time": [datetime.datetime(2026, 1, 1), None],
        "price": [decimal.Decimal("1.5"), None],
        "bytes": [b"\xff", b""],
        "nested": [{"a": [1]}, None],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    for name in ("a.jsonl", "a.csv", "a.parquet", "saved"):
        assert _read(tmp_path / name) == EXPECTED
    with pytest.raises(ValueError, match=r"a\.parquet row 1: field 'time' is not a text or a number"):
        read_examples(tmp_path / "a.parquet", "completion", "{q}", "{time}")
    with pytest.raises(ValueError, match=r"a\.csv names two columns 'twice' alike"):
        read_examples(tmp_path / "a.csv", "completion", "{q}", "{twice}")


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.NDJSON", "a.CSV", "a.tsv.zst", "a.Parquet", "a.csv.GZ"])
def test_suffixes_may_be_capitals_or_of_a_packed_file(tmp_path: Path, name: str) -> None:
    frame, suffix = pd.DataFrame(PLAIN), name.lower().removesuffix(".gz").removesuffix(".zst")
    if suffix.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    elif suffix.endswith("json") or suffix.endswith("jsonl"):
        data = frame.to_json(orient="records", lines=True).encode()
    else:
        data = frame.to_csv(sep="\t" if suffix.endswith("tsv") else ",", index=False).encode()
    if not suffix.endswith("parquet"):
        pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(Path(name).suffix.lower(), bytes)
        (tmp_path / name).write_bytes(pack(data))
    assert _read(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("options", [{}, {"quoting": csv.QUOTE_ALL}, {"index": True}])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_what_pandas_encloses_in_quotes_is_read_as_it_was(
    tmp_path: Path, separator: str, options: dict[str, Any]
) -> None:
    texts = ['say "x"', "tab\there, so", "two\nlines", '"quoted"', "plain", "x" * 200_000]
    path = tmp_path / ("a.tsv" if separator == "\t" else "a.csv")
    frame = pd.DataFrame({"q": texts, "a": [f"answer {index}" for index in range(len(texts))]})
    for chosen in ([0, 4], [1, 4], [2, 4], [3, 4], [5, 4], range(len(texts))):
        frame.iloc[list(chosen)].to_csv(path, sep=separator, **({"index": False} | options))
        assert [example.prompt for example in _read(path)] == [texts[index] for index in chosen]


def test_a_header_of_numbers_is_no_example(tmp_path: Path) -> None:
    frame = pd.DataFrame([["one", "x"], ["two", "y"]])
    for index in (False, True):
        frame.to_csv(tmp_path / "a.csv", index=index)
        assert read_examples(tmp_path / "a.csv", "completion", "{0}", "{1}") == EXPECTED
    (tmp_path / "a.csv").write_text("0,1\n1,0\n")  # a table of numbers without a header
    assert read_examples(tmp_path / "a.csv", "completion", "{0}", "{1}")[0] == Example("0", "1")


def test_a_column_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("reviews.text,a\none,x\ntwo,y\n")
    assert read_examples(tmp_path / "a.csv", "completion", "{reviews.text}", "{a}") == EXPECTED


@pytest.mark.parametrize("other", ["cafe\u0301", "caf\u00e9 "])
def test_labels_that_look_alike_are_told_apart_in_the_message(tmp_path: Path, other: str) -> None:
    def write(name: str, labels: list[str]) -> Path:
        rows = [json.dumps({"q": "x", "a": label}) for label in labels]
        (tmp_path / name).write_text("\n".join(rows), encoding="utf-8")
        return tmp_path / name

    good = write("good.jsonl", ["caf\u00e9", "bar"])
    for train, validation in (
        (good, write("v.jsonl", [other])),
        (write("t.jsonl", ["caf\u00e9", other]), good),
    ):
        with pytest.raises(ValueError, match=r"caf\\xe9") as error:
            read_task_sets(train, validation, "classification", "{q}", "{a}")
        assert ascii(other) in str(error.value)


@pytest.mark.parametrize("kind", ["parquet", "saved", "folder"])
def test_a_label_without_a_name_is_refused_with_its_row(tmp_path: Path, kind: str) -> None:
    features = datasets.Features({"q": datasets.Value("string"), "a": datasets.ClassLabel(names=["x", "y"])})
    rows = datasets.Dataset.from_dict({"q": ["one", "two"], "a": [0, -1]}, features=features)
    if kind == "saved":
        rows.save_to_disk(tmp_path / "given")
    else:
        (tmp_path / "given").mkdir()
        rows.to_parquet(tmp_path / "given/train.parquet")
    path = tmp_path / "given/train.parquet" if kind == "parquet" else tmp_path / "given"
    with pytest.raises(ValueError, match=r"given.*row 2 has the label -1 in 'a'.* 0 … 1: label it"):
        _read(path)


def test_damage_in_tables_is_named_with_file_and_row(tmp_path: Path) -> None:
    stream = io.BytesIO()
    table = pa.table({"q": ["one"] * 500, "a": [str(index) for index in range(500)]})
    pq.write_table(table, stream, write_page_checksum=True, use_dictionary=False)
    data = stream.getvalue()
    (tmp_path / "a.parquet").write_bytes(data[:900] + bytes([data[900] ^ 0x55]) + data[901:])
    with pytest.raises(ValueError, match=r"a\.parquet is broken at row \d+ \(.*fetch it again"):
        _read(tmp_path / "a.parquet")
    pq.write_table(
        pa.table({"q": pa.array([], "string"), "a": pa.array([], "string")}), tmp_path / "a.parquet"
    )
    with pytest.raises(ValueError, match=r"a\.parquet has no examples"):
        _read(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/train.jsonl").write_text('{"q": "1", "a": "2"}\n{"q": \n')
    with pytest.raises(ValueError, match=r"folder.*(cannot be read|cannot be opened)") as error:
        _read(tmp_path / "folder")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.csv.gz"])
def test_a_line_that_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(records, "LONGEST_LINE", 1000)
    row = json.dumps({"q": "x" * 2000, "a": "y"}) if "json" in name else "q,a\n" + "x" * 2000
    data = row.replace(",", "\t").encode() if "tsv" in name else row.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(ValueError, match=r"line \d is longer than 1000"):
        _read(tmp_path / name)


def test_a_folder_of_texts_stays_one_whatever_lies_beside_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for index in range(9):
        (folder / f"{index:03d}.txt").write_text(f"text {index}")
    expected = read_examples(folder, "language_model", "", "")
    (folder / "TENTH.TXT").write_text("a tenth")
    for hidden in (".ipynb_checkpoints", ".git", "sub"):
        (folder / hidden).mkdir()
        (folder / hidden / "copy.csv").write_text("text\na\nb\n")
    (folder / ".ipynb_checkpoints/000-checkpoint.txt").write_text("a copy")
    (folder / "._000.txt").write_bytes(b"\0\5\x16\7\xff")
    pq.write_table(pa.table({"text": ["a"]}), folder / "stats.parquet")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/more.md").write_text("an eleventh")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked/loop").symlink_to(folder)
    with caplog.at_level(logging.WARNING):
        found = read_examples(folder, "language_model", "", "")
    assert {example.completion for example in found} == {
        *(example.completion for example in expected),
        "a tenth",
        "an eleventh",
    }
    assert len(found) == 11
    assert f"{folder}: files that are not read: 1 × .csv, 1 × .parquet" in caplog.text
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/README.md").write_text("About the table.")
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "tables/train.parquet")
    assert len(read_examples(tmp_path / "tables", "language_model", "", "{text}")) == 2
