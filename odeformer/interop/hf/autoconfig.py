"""A checkpoint's configuration and tokenizer as ``transformers`` classes, which ``automodel`` registers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from odeformer import checkpoint
from odeformer.config import ModelConfig

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of a checkpoint without a ``tokenizer_config.json``."""


class OdeformerConfig(PreTrainedConfig):
    """A checkpoint's ``config.json``, with the ``depth`` N and the ``adapter`` folder to run it with."""

    model_type = "odeformer"

    format_version: int = checkpoint.FORMAT_VERSION
    model: dict[str, Any] | None = None
    solver: str = "euler"
    depth: int | None = None
    adapter: str | None = None

    @property
    def shape(self) -> ModelConfig:
        """The model's shape."""
        return ModelConfig.model_validate(self.model)

    # transformers and the evaluation harness use these names.

    @property
    def vocab_size(self) -> int | None:
        return None if self.model is None else self.shape.vocabulary_size

    @property
    def max_position_embeddings(self) -> int | None:
        return None if self.model is None else self.shape.context_length

    @property
    def hidden_size(self) -> int | None:
        return None if self.model is None else self.shape.width

    @property
    def num_attention_heads(self) -> int | None:
        return None if self.model is None else self.shape.heads

    @property
    def num_hidden_layers(self) -> int | None:
        return None if self.model is None else (self.depth or self.shape.depth)


class OdeformerTokenizer(PreTrainedTokenizerFast):
    """A checkpoint's ``tokenizer.json``; if it was trained here, "<|endoftext|>" is tokenized as letters."""

    padding_side = "left"

    # Not in __init__: for classes with their own, transformers rebuilds the tokenizer from the vocabulary
    # alone, without the pre-tokenizer.
    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any
    ) -> OdeformerTokenizer:
        """The tokenizer of a checkpoint folder."""
        folder = Path(pretrained_model_name_or_path)
        shape, _ = checkpoint.load_config(folder)
        known = checkpoint.load_tokenizer_config(folder) or {"split_special_tokens": True}
        end = known.get("eos_token", END_OF_TEXT)
        defaults = {"eos_token": end, "pad_token": end, "model_max_length": shape.context_length} | known
        return super().from_pretrained(pretrained_model_name_or_path, *args, **defaults | kwargs)
