"""Pairs of answers, as they are written in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.chat import ChatTemplate
from data.tasks.example import Pair
from data.tasks.preferences import read_preferences, tokenized
from data.tasks.stream import TaskStream, encode, shortened
from data.tokenizer import END_OF_TEXT, train_tokenizer

TOKENIZER = train_tokenizer(["question answer yes no\n"] * 10, 300)
CHAT = ChatTemplate.of(TOKENIZER, {})
TEXTS = {"prompt": "question ", "chosen": "yes", "rejected": "no answer"}


def messages(*contents: str, first: str = "user") -> list[dict[str, str]]:
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


CHATS = {
    "prompt": messages("question", "answer", "question"),
    "chosen": messages("yes", first="assistant"),
    "rejected": messages("no", "question", "no answer", first="assistant"),
}


def read(tmp_path: Path, *rows: Any) -> Any:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_preferences(path, "", "", "train")


def counted(window: Any) -> str:
    tokens = [token for token, counts in zip(window.ids[1:], window.counts, strict=True) if counts]
    return str(TOKENIZER.decode(tokens, skip_special_tokens=False))


def test_only_the_tokens_of_answers_count(tmp_path: Path) -> None:
    openai = {
        "input": {"messages": CHATS["prompt"], "tools": []},
        "preferred_output": CHATS["chosen"],
        "non_preferred_output": CHATS["rejected"],
    }
    texts, chats, same = (tokenized(example, CHAT) for example in read(tmp_path, TEXTS, CHATS, openai))
    assert [counted(window) for window in texts] == ["yes" + END_OF_TEXT, "no answer" + END_OF_TEXT]
    both = ["yes" + END_OF_TEXT, f"no{END_OF_TEXT}no answer{END_OF_TEXT}"]
    assert [counted(window) for window in chats] == both
    assert same == chats
    before = [window.ids[: window.counts.index(True) + 1] for window in chats]
    assert before[0] == before[1] == CHAT.encode(CHATS["prompt"])


def test_rows_are_pairs_and_too_long_ones_are_left_out(tmp_path: Path) -> None:
    pairs = [tokenized(example, CHAT) for example in read(tmp_path, *[TEXTS] * 3, CHATS)]
    length = len(pairs[3].rejected.counts) - 1
    stream = TaskStream(
        pairs, TOKENIZER, rows="pairs", rank=0, world_size=1, global_batch=2, sequence_length=length, seed=0
    )
    assert stream.sequences == 3
    assert shortened(pairs, TOKENIZER, length) == (0, 1)
    assert encode(pairs[3], TOKENIZER, length) == []
    batch = next(iter(stream))
    assert batch.loss_mask is not None
    assert batch.tokens.shape == (2, 2, length + 1)
    assert batch.loss_mask.shape == (2, 2, length)
    for window, tokens, mask in zip(pairs[0], batch.tokens[1], batch.loss_mask[1], strict=True):
        assert tokens[: len(window.ids)].tolist() == window.ids
        assert mask[: len(window.counts)].tolist() == window.counts
        assert not mask[len(window.counts) :].any()
    assert isinstance(pairs[0], Pair)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "a", "chosen": "b"},
            r"line 7 has no field 'rejected': prompt, chosen, rejected are expected",
        ),
        (TEXTS | {"chosen": " "}, r"line 7: chosen is empty"),
        (TEXTS | {"rejected": "yes"}, r"line 7: chosen and rejected are the same"),
        (TEXTS | {"rejected": CHATS["chosen"]}, r"line 7: .* are three texts, or three lists of messages"),
        (TEXTS | {"prompt": 5}, r"line 7: .* are three texts, or three lists of messages"),
        (CHATS | {"rejected": messages("no")}, r"line 7: rejected has no turn of the assistant's"),
        (CHATS | {"prompt": [{"role": "me"}]}, r"line 7: prompt\.0\.role: Input should be 'system'.*'me'"),
        (CHATS | {"tools": 1}, r"line 7: tools: a list of descriptions of tools is expected"),
    ],
)
def test_a_mistake_is_named_with_its_line(row: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pairs\.jsonl " + said):
        read(tmp_path, *[TEXTS] * 6, row)
