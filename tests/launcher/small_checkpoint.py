"""An untrained checkpoint folder, for commands that only need one."""

from __future__ import annotations

from pathlib import Path

import torch

from data.tokenizer import FILE_NAME, train_tokenizer
from odeformer import checkpoint
from odeformer.config import ModelConfig
from odeformer.model import Odeformer


def small_checkpoint(folder: Path, solver: str = "euler", context: int = 128) -> Path:
    """Write a checkpoint of width 32, D = 4 and a vocabulary of 300, and its tokenizer, to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer([Path(__file__).read_text()], 300)
    tokenizer.save(str(folder / FILE_NAME))
    shape = {
        "width": 32,
        "heads": 2,
        "depth": 4,
        "basis": {"size": 2},
        "vocabulary_size": tokenizer.get_vocab_size(),
        "context_length": context,
    }
    torch.manual_seed(0)
    model = Odeformer(ModelConfig.model_validate(shape))
    saved = folder / "checkpoint"
    checkpoint.save(model.state_dict(), model.config, solver, folder / FILE_NAME, saved)
    return saved
