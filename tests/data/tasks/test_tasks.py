import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.tasks.example import Example
from data.tasks.examples import labels, read_examples, read_task_sets
from data.tasks.stream import TaskStream, encode
from data.tokenizer import END_OF_TEXT, end_of_text_id, train_tokenizer

TOKENIZER = train_tokenizer(["question and answer, yes or no\n"] * 10, 300)
END = end_of_text_id(TOKENIZER)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def _decode(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


@settings(max_examples=200, deadline=None)
@given(prompt=texts, completion=texts.filter(str.strip), length=st.integers(1, 200))
def test_mask_is_exactly_the_completion(prompt: str, completion: str, length: int) -> None:
    [(ids, counts)] = encode(Example(prompt, completion), TOKENIZER, length)
    assert len(ids) <= length + 1
    assert len(counts) == len(ids) - 1
    answer = [*TOKENIZER.encode(completion).ids, END]
    counted = [token for token, counts_here in zip(ids[1:], counts, strict=True) if counts_here]
    assert counted == answer[:length]
    question = TOKENIZER.encode(prompt).ids or [END]
    rest = ids[: len(ids) - len(counted)]
    assert rest
    assert rest == question[-len(rest) :]
    if len(question) + len(answer) <= length + 1:
        assert _decode(counted) == completion + END_OF_TEXT
        assert _decode(rest) == (prompt or END_OF_TEXT)
    else:
        assert len(ids) == length + 1


def test_stream_masks_padding_and_prompt() -> None:
    examples = [Example(f"question {i} " * (i % 3), "yes" if i % 2 else "no") for i in range(10)]
    stream = _stream(examples, global_batch=5)
    iterator = iter(stream)
    for _ in range(4):
        batch = next(iterator)
        assert batch.loss_mask is not None
        assert (batch.tokens.shape, batch.tokens.dtype) == ((5, 65), torch.int64)
        assert (batch.loss_mask.shape, batch.loss_mask.dtype) == ((5, 64), torch.bool)
        for tokens, mask, sample in zip(
            batch.tokens, batch.loss_mask, batch.sample_ids.tolist(), strict=True
        ):
            counted = tokens[1:][mask].tolist()
            assert _decode(counted) == examples[sample].completion + END_OF_TEXT
            last = int(mask.nonzero()[-1])
            assert (tokens[last + 2 :] == END).all()


def _stream(examples: list[Example], rank: int = 0, world_size: int = 1, **options: Any) -> TaskStream:
    options = {"global_batch": 4, "sequence_length": 64, "seed": 0, **options}
    return TaskStream(examples, TOKENIZER, rank=rank, world_size=world_size, **options)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_order_is_elastic_and_epochs_are_whole(world_size: int) -> None:
    examples = [Example(f"{i} ", "yes") for i in range(11)]
    alone = iter(_stream(examples))
    expected = torch.cat([next(alone).sample_ids for _ in range(11)])
    assert sorted(expected[:11].tolist()) == list(range(11))
    assert expected[:11].tolist() != expected[11:22].tolist()

    first = [_stream(examples, rank, world_size) for rank in range(world_size)]
    iterators = [iter(stream) for stream in first]
    before = torch.cat([next(it).sample_ids for _ in range(3) for it in iterators])
    resumed = _stream(examples)
    resumed.load_state_dict(first[0].state_dict())
    again = iter(resumed)
    after = torch.cat([next(again).sample_ids for _ in range(8)])
    assert torch.equal(torch.cat([before, after]), expected)


def test_state_of_other_examples_is_refused() -> None:
    state = _stream([Example("a", "yes")]).state_dict()
    with pytest.raises(ValueError, match="data order"):
        _stream([Example("b", "yes")]).load_state_dict(state)
    with pytest.raises(ValueError, match="4 = 1 × 3"):
        _stream([Example("a", "yes")], world_size=3)
    with pytest.raises(ValueError, match="no examples"):
        _stream([])


def test_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    rows = [
        {"question": "a\u2028b {x}", "answer": "first\nsecond", "n": 1},
        {"question": "2", "answer": "3", "n": True},
    ]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    examples = read_examples(file, "completion", "{{Q}} {question}\n", "{answer} {n}")
    assert examples == [
        Example("{Q} a\u2028b {x}\n", "first\nsecond 1"),
        Example("{Q} 2\n", "3 true"),
    ]


def test_tsv_quotes_are_letters_and_csv_quotes_are_quotes(tmp_path: Path) -> None:
    table = tmp_path / "set.tsv"
    table.write_text('\ufeffsentence\tlabel\r\n"so bad\t0\r\nit \'s "good"\t1\r\n')
    examples = read_examples(table, "classification", "{sentence}", "{label}")
    assert examples == [Example('"so bad', "0"), Example('it \'s "good"', "1")]
    assert labels(examples * 2) == ["0", "1"]
    table = tmp_path / "set.csv"
    table.write_text('sentence,label\n"one, two\nthree ""four""",yes\n')
    (example,) = read_examples(table, "completion", "{sentence}", "{label}")
    assert example == Example('one, two\nthree "four"', "yes")


def test_numbered_fields_read_a_table_without_a_header(tmp_path: Path) -> None:
    table = tmp_path / "set.tsv"
    table.write_text("so bad\t0\nso good\t1\n")
    examples = read_examples(table, "classification", "{0}\n", "{1}")
    assert examples == [Example("so bad\n", "0"), Example("so good\n", "1")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"q": "1", "a": "2"}\n{"q": "1"}\n', r"a\.jsonl line 2 .*'a', only q"),
        ("a.jsonl", '{"q": "1", "a": "2"}\n{"q": \n', r"a\.jsonl line 2 is not JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '{"q": null, "a": "2"}\n', r"a\.jsonl line 1: field 'q' is not a text"),
        ("a.jsonl", '{"q": "\\ud800", "a": "2"}\n', r"a\.jsonl line 1: field 'q'.*surrogate"),
        ("a.jsonl", '{"q": "1", "a": " "}\n', r"a\.jsonl line 1 has an empty completion"),
        ("a.jsonl", "", r"a\.jsonl has no examples"),
        ("a.tsv", "q\ta\n", r"a\.tsv has no examples"),
        ("a.tsv", "q\ta\n1\t2\n1\n", r"a\.tsv line 3 has 1 columns, the first line has 2"),
        ("a.tsv", "q\tq\n1\t2\n", r"a\.tsv names two columns 'q' alike"),
        ("a.tsv", "so bad\t0\nfine\t1\n", r"a\.tsv line 2 .*'q', only so bad, 0.*\{0\}"),
        ("a.csv", 'q,a\n"1"x,2\n', r"a\.csv line 2 is malformed"),
        ("a.csv", b"q,a\n\xe9,2\n", r"a\.csv is not UTF-8 text \(line 2\)"),
        ("a.csv", "q,a\n1,2\n".encode("utf-16"), r"a\.csv is not UTF-8 text \(line 1\)"),
        ("a.tsv", "q\ta\n1\t2\n".encode("utf-16-le"), r"a\.tsv is not UTF-8 text \(line 1\)"),
        ("a.jsonl", '{"q": "é", "a": "2"}\n'.encode("latin-1"), r"a\.jsonl line 1 is not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b"{}\n" * 9, mtime=0)[:-9], r"a\.jsonl\.gz is not intact gzip"),
        ("a.tsv", 'q\ta\n"one\t1\ntwo"\t2\n', r"a\.tsv can be read in two ways.*\.csv or \.jsonl"),
        ("a.xml", "<a/>", r"give a \.jsonl, \.ndjson, \.tsv, \.csv or \.parquet"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_examples(file, "completion", "{q}", "{a}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", ["{q.__class__}", "{q[0]}", "{q!r}", "{q:>9}", "{}", "{q", "}"])
def test_templates_are_plain(tmp_path: Path, template: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"q": "1", "a": "2"}\n')
    with pytest.raises(ValueError, match="template"):
        read_examples(file, "completion", template, "{a}")


def test_missing_file_and_single_label(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.jsonl"):
        read_examples(tmp_path / "a.jsonl", "completion", "{q}", "{a}")
    file = tmp_path / "a.jsonl"
    file.write_text('{"q": "1", "a": "2"}\n')
    with pytest.raises(ValueError, match="only the label '2'"):
        read_task_sets(file, file, "classification", "{q}", "{a}")


@settings(max_examples=100, deadline=None)
@given(text=texts.filter(str.strip), length=st.integers(1, 60))
def test_every_token_of_a_whole_text_counts_once(text: str, length: int) -> None:
    windows = encode(Example(None, text), TOKENIZER, length)
    counted = [token for ids, counts in windows for token, yes in zip(ids[1:], counts, strict=True) if yes]
    assert counted == [*TOKENIZER.encode(text).ids, END]
    assert windows[0].ids[0] == END
    assert all(len(ids) <= length + 1 for ids, _ in windows)
    # Each window goes on where the one before it ended.
    assert all(before.ids[-1] == after.ids[0] for before, after in pairwise(windows))


def test_a_language_model_learns_text_files_and_a_column_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one text")
    (tmp_path / "texts" / "b.md").write_text("another")
    (tmp_path / "texts" / "empty.txt").write_text(" ")
    examples = read_examples(tmp_path / "texts", "language_model", "{prompt}", "{completion}")
    assert examples == [Example(None, "one text"), Example(None, "another")]
    table = tmp_path / "set.jsonl"
    table.write_text('{"text": "a row", "other": "b"}\n')
    assert read_examples(table, "language_model", "{nothing}", "{text}") == [Example(None, "a row")]
    with pytest.raises(ValueError, match=r"a\.txt ends in"):
        read_examples(tmp_path / "texts" / "a.txt", "completion", "{prompt}", "{completion}")


def test_a_folder_of_hugging_face_and_parquet_are_tables(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {"sentence": ["so bad", "so good"], "label": [0, 1]}
    other = {"sentence": ["fine"], "label": [1]}
    both = datasets.DatasetDict(
        {
            "train": datasets.Dataset.from_dict(rows, features=features),
            "validation": datasets.Dataset.from_dict(other, features=features),
        }
    )
    both.save_to_disk(str(tmp_path / "saved"))
    saved = tmp_path / "saved"
    sets = read_task_sets(saved, saved, "classification", "{sentence}\n", "{label}")
    assert sets.train == [Example("so bad\n", "bad"), Example("so good\n", "good")]
    assert sets.validation == [Example("fine\n", "good")]
    both["train"].to_parquet(str(tmp_path / "set.parquet"))
    assert read_examples(tmp_path / "set.parquet", "classification", "{sentence}\n", "{label}") == sets.train
    with pytest.raises(ValueError, match=r"row 1 has no field 'x', only sentence, label"):
        read_examples(tmp_path / "set.parquet", "completion", "{x}", "{label}")


def test_without_a_validation_file_a_part_is_held_out_by_digest(tmp_path: Path) -> None:
    table = tmp_path / "set.jsonl"
    rows = [{"prompt": f"{i}", "completion": f"answer {i}"} for i in range(400)]
    table.write_text("\n".join(json.dumps(row) for row in rows))
    sets = read_task_sets(table, None, "completion", "{prompt}", "{completion}", held_out=0.2)
    assert 50 < len(sets.validation) < 110
    assert len(sets.train) + len(sets.validation) == 400
    # Neither the order of the rows nor what else is there moves an example to the other side.
    table.write_text("\n".join(json.dumps(row) for row in reversed(rows[:200])))
    again = read_task_sets(table, None, "completion", "{prompt}", "{completion}", held_out=0.2)
    assert set(again.validation) <= set(sets.validation)
    table.write_text("\n".join(json.dumps(row) for row in rows[:1]))
    with pytest.raises(ValueError, match=r"of 1 examples \d are held out"):
        read_task_sets(table, None, "completion", "{prompt}", "{completion}")
