"""``odeformer generate --explain`` and ``--audit``, and the same in Python."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from small_checkpoint import small_checkpoint

import odeformer
from data.tokenizer import load_tokenizer
from launcher.cli.main import app
from launcher.generation.generate import answer, write
from odeformer.analysis.answers.explanation import explain
from odeformer.files.digest import folder_digest
from odeformer.inference.sampling import Sampling

PROMPT = "def secret(folder):"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("model"), context=48)


def test_an_answer_comes_with_what_it_leaned_on(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "generate",
        "--model",
        str(checkpoint),
        "--max-new-tokens",
        "5",
        "--temperature",
        "0",
        PROMPT,
    ]
    app(arguments, standalone_mode=False)
    plain = capfd.readouterr().out
    app([*arguments, "--explain"], standalone_mode=False)
    explained = capfd.readouterr().out
    assert explained.startswith(plain)
    assert "confidence: " in explained
    assert "most influential tokens, by integrated gradients:" in explained


def test_the_explanation_is_that_of_the_model(checkpoint: Path) -> None:
    found = answer(PROMPT, str(checkpoint), depth=6, max_new_tokens=4, sampling=Sampling(0.0), explain=True)
    why = found.explanation
    assert why is not None
    assert found.depth == 6
    assert "".join(found.tokens) == PROMPT
    assert sum(why.shares) == pytest.approx(1)
    model, ids = odeformer.load(checkpoint), load_tokenizer(checkpoint).encode(PROMPT).ids
    with torch.no_grad():
        first = model(torch.tensor([ids]), depth=6).logits[0, -1].softmax(-1)
    assert why.probabilities[0] == pytest.approx(float(first.max()), rel=1e-4)
    product = 1.0
    for probability in why.probabilities:
        product *= probability
    assert why.confidence == pytest.approx(product ** (1 / len(why.probabilities)))


def test_what_does_not_fit_the_context_is_left_out(checkpoint: Path) -> None:
    model = odeformer.load(checkpoint)
    long = explain(model, [5] * 10 + [7] * 40, [9, 9, 9])
    assert long.first == 4
    assert len(long.shares) == 46
    assert all(4 <= position < 50 for position, _ in long.strongest(3))
    longer = explain(model, [5], [9] * 100)
    assert (longer.first, len(longer.shares), len(longer.probabilities)) == (0, 1, 48)
    with pytest.raises(ValueError, match="at least one token each"):
        explain(model, [5], [])


def test_the_audit_has_a_line_for_each_answer_and_no_text_unless_asked(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    audit = tmp_path / "audit.jsonl"
    arguments = [
        "generate",
        "--model",
        str(checkpoint),
        "--max-new-tokens",
        "4",
        "--audit",
        str(audit),
        PROMPT,
    ]
    app(arguments, standalone_mode=False)
    app([*arguments, "--audit-text", "--seed", "3", "--depth", "2"], standalone_mode=False)
    out = capfd.readouterr().out
    quiet, full = audit.read_text().splitlines()
    assert "secret" not in quiet
    first, second = json.loads(quiet), json.loads(full)
    assert first["prompt_sha256"] == hashlib.sha256(PROMPT.encode()).hexdigest()
    assert first["models"] == [
        {"name": str(checkpoint), "kind": "checkpoint", "sha256": folder_digest(checkpoint)}
    ]
    assert (first["depth"], first["seed"], second["depth"], second["seed"]) == (4, 0, 2, 3)
    assert first["settings"]["temperature"] == 0.8
    assert len(first["explanation"]["shares"]) == first["prompt_tokens"]
    assert second["prompt"] == PROMPT
    assert PROMPT + second["answer"] in out
    assert second["answer_sha256"] == hashlib.sha256(second["answer"].encode()).hexdigest()


def test_an_answer_that_is_broken_off_is_in_the_audit_too(checkpoint: Path, tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    text = write(PROMPT, str(checkpoint), max_new_tokens=20, audit=audit, audit_text=True)
    seen = [next(text) for _ in range(3)]
    text.close()
    (line,) = audit.read_text().splitlines()
    assert json.loads(line)["answer"] == "".join(seen[1:])


def test_an_audit_that_cannot_be_written_is_said_before_anything_is_answered(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=r"audit\.jsonl"):
        next(write(PROMPT, str(checkpoint), audit=tmp_path / "nowhere/audit.jsonl"))
    with pytest.raises(ValueError, match="--audit-text is for --audit"):
        app(["generate", "--model", str(checkpoint), "--audit-text", PROMPT], standalone_mode=False)
