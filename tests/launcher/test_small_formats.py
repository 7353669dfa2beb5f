"""``models export --gguf`` and ``generate --int8`` on a checkpoint folder."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch

from data.tokenizer import FILE_NAME, train_tokenizer
from launcher.cli.main import app
from odeformer import checkpoint
from odeformer.config import ModelConfig
from odeformer.model import Odeformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An untrained checkpoint."""
    tokenizer = train_tokenizer([Path(__file__).read_text()], 300)
    tokenizer.save(str(tmp_path / FILE_NAME))
    shape = {
        "flavour": "llama",
        "width": 64,
        "heads": 4,
        "depth": 4,
        "feed_forward_width": 80,
        "basis": {"size": 2},
        "vocabulary_size": tokenizer.get_vocab_size(),
        "context_length": 32,
    }
    torch.manual_seed(0)
    model = Odeformer(ModelConfig.model_validate(shape))
    saved = tmp_path / "checkpoint"
    checkpoint.save(model.state_dict(), model.config, "lie_trotter", tmp_path / FILE_NAME, saved)
    return saved


def odeformer(*arguments: str | Path) -> None:
    app([str(argument) for argument in arguments], standalone_mode=False)


def test_a_gguf_file_is_written_once_and_replaced_when_asked(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.gguf"
    export = ("models", "export", "--model", folder, "--depth", "3", "--out", out, "--gguf")
    odeformer(*export, "q8_0")
    said = capfd.readouterr()
    assert "an ordinary transformer of 3 layers" in said.out
    assert "3 matrices are f16" in said.out, "of the feed-forward part, 80 numbers a row"
    assert "the rounded weights' logits differ from the model's by at most" in said.out
    assert "tensors" not in said.err, "of a progress bar that nobody asked for"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    assert kinds["blk.2.ffn_down.weight"] == "F16"
    assert kinds["blk.2.ffn_norm.weight"] == "F32"
    small = out.stat().st_size
    with pytest.raises(ValueError, match="is there already"):
        odeformer(*export, "f32")
    assert out.stat().st_size == small
    odeformer(*export, "f32", "--overwrite")
    assert out.stat().st_size > 2 * small
    theirs = out.with_name("theirs.gguf")
    theirs.write_bytes(b"GGUF of another program")
    with pytest.raises(ValueError, match=r"theirs.gguf was not written by this program"):
        odeformer(*export[:-2], theirs, "--gguf", "f32", "--overwrite")
    theirs.unlink()
    assert [path.name for path in out.parent.iterdir()] == ["out.gguf"]


def test_a_file_in_the_checkpoint_is_not_written_over(folder: Path) -> None:
    weights = folder / "model.safetensors"
    with pytest.raises(ValueError, match="is the folder to read from"):
        odeformer("models", "export", "--model", folder, "--out", weights, "--overwrite", "--gguf", "f16")


def test_int8_writes_a_text(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = {}
    for depth in ((), ("--latency-ms", "1000"), ("--depth", "6", "--draft-depth", "3")):
        odeformer("generate", "--model", folder, "--int8", "--max-new-tokens", "8", *depth, "def ")
        written[depth] = capfd.readouterr().out
        assert written[depth].startswith("def ")
        assert len(written[depth]) > 5
