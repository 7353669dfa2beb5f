"""The continuous-depth model as a ``transformers`` class. Importing this module registers it.

>>> import odeformer.interop.hf.automodel                                                # doctest: +SKIP
>>> model = AutoModelForCausalLM.from_pretrained("runs/book/final", depth=4)          # doctest: +SKIP
>>> tokenizer = AutoTokenizer.from_pretrained("runs/book/final")                      # doctest: +SKIP
>>> model.generate(**tokenizer("It was", return_tensors="pt"))                        # doctest: +SKIP

``transformers`` has no entry point with which a package could register models without being imported.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

import odeformer
from odeformer import checkpoint
from odeformer.inference.decoding import Decoder, FixedDepthModel
from odeformer.interop.hf.autoconfig import END_OF_TEXT, OdeformerConfig, OdeformerTokenizer
from odeformer.model import Odeformer, SolveOptions

IGNORED = {
    "_from_auto",
    "_from_pipeline",
    "adapter_kwargs",
    "cache_dir",
    "force_download",
    "local_files_only",
    "max_memory",
    "proxies",
    "revision",
    "token",
    "trust_remote_code",
    "use_safetensors",
}
"""Arguments of ``from_pretrained`` that do not matter for a local folder."""


class DecoderCache:
    """The ``past_key_values`` of the model: a decoder with its KV cache, in the interface of ``Cache``."""

    def __init__(self, decoder: Decoder, depth: int) -> None:
        self.decoder, self.depth = decoder, depth

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens read, including padding."""
        return self.decoder.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i continue from what row ``beam_idx[i]`` has read."""
        self.decoder.reorder(beam_idx)


class OdeformerForCausalLM(PreTrainedModel, GenerationMixin):
    """The model with the interface of ``transformers``. Its float32 weights are on one device."""

    config_class = OdeformerConfig
    base_model_prefix = "odeformer"
    _is_stateful = True

    def __init__(self, config: OdeformerConfig, model: Odeformer | None = None) -> None:
        super().__init__(config)
        self.odeformer = Odeformer(config.shape) if model is None else model
        self.odeformer.options = SolveOptions(config.solver)
        self.post_init()

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # ``DynamicCache`` has an entry per layer; a solver may evaluate the field more often.
        return False

    def _init_weights(self, module: torch.nn.Module) -> None:
        pass  # the weights are initialized by Odeformer, or loaded

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        config: OdeformerConfig | None = None,
        **kwargs: Any,
    ) -> OdeformerForCausalLM:
        """The model of a checkpoint folder, loaded as by :func:`odeformer.load`.

        Args:
            pretrained_model_name_or_path: the folder.
            model_args: ignored.
            config: the result of ``AutoConfig``.
            kwargs: ``depth``: the default N; the model depth when not given. ``adapter``: an adapter folder.
                ``device_map``: one device.

        Raises:
            ValueError, FileNotFoundError: for an invalid folder or depth, or an unsupported argument.
        """
        folder = Path(pretrained_model_name_or_path)
        if config is None:
            config, kwargs = OdeformerConfig.from_pretrained(folder, return_unused_kwargs=True, **kwargs)
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
        if dtype not in (None, "auto", "float32", torch.float32):
            raise ValueError(f"dtype {dtype}: the weights are float32; run the model under torch.autocast")
        config.dtype = torch.float32
        device = _one_device(kwargs.pop("device_map", None))
        unknown = sorted(name for name, value in kwargs.items() if value and name not in IGNORED)
        if unknown:
            raise ValueError(
                f"from_pretrained: {unknown[0]!r} is not for this model; it takes depth, adapter, device_map"
            )

        loaded = odeformer.load(folder, config.adapter)
        loaded.grids(config.depth)  # checks the depth
        model = cls(config, loaded)
        vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        ids = {token["content"]: token["id"] for token in vocabulary.get("added_tokens", [])}
        known = checkpoint.load_tokenizer_config(folder)
        end = known.get("eos_token", END_OF_TEXT)
        model.generation_config.eos_token_id = ids.get(end)
        model.generation_config.pad_token_id = ids.get(known.get("pad_token", end))
        return model.to(device).eval()

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint folder, with the tokenizer of the folder that the model was loaded from.

        Raises:
            ValueError: for a folder that is not empty, or a model with an adapter.
        """
        folder = Path(save_directory)
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder} holds something already: a checkpoint needs an empty folder")
        tokenizer = Path(self.config.name_or_path) / "tokenizer.json"
        model = self.odeformer
        checkpoint.save(model.state_dict(), model.config, model.solver, tokenizer, folder)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.odeformer.embedding

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        depth: int | None = None,
        past_key_values: DecoderCache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next token at every position, and with labels the loss.

        Args:
            input_ids: token ids [batch, tokens], int64; with ``past_key_values``, only the new tokens.
            attention_mask: [batch, tokens] for all tokens, 0 for padding, which is at an end of a row.
            labels: [batch, tokens], −100 for tokens without loss; they are shifted here.
            depth: N; that of :meth:`from_pretrained` when not given.
            past_key_values: the result of the previous call with ``use_cache``.
            use_cache: whether to return ``past_key_values``.
            logits_to_keep: number of last positions whose logits are returned; 0 means all.
            return_dict: if False, a tuple is returned.

        Raises:
            ValueError: as :meth:`odeformer.model.Odeformer.forward`; for padding between tokens, or on the
                right with ``use_cache``; for a depth other than that of ``past_key_values``.
        """
        depth = self.config.depth if depth is None else depth
        if past_key_values is not None or use_cache:
            past_key_values = past_key_values or self._new_cache(input_ids, attention_mask, depth)
            logits = self._decode(past_key_values, input_ids, depth, logits_to_keep == 1)
        else:
            padding = None if attention_mask is None else left_padding(attention_mask)
            logits = self._run(input_ids, padding, depth)

        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits[:, -logits_to_keep:], past_key_values=past_key_values
        )
        return output.to_tuple() if return_dict is False else output

    def _run(self, input_ids: Tensor, padding: Tensor | None, depth: int | None) -> Tensor:
        if padding is None or not padding.any():
            return self.odeformer(input_ids, depth=depth).logits
        # Attention is causal: padding that is moved from the left of a row to its right has no effect.
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        forth = (positions + padding[:, None]) % len(positions)
        back = (positions - padding[:, None]) % len(positions)
        logits = self.odeformer(input_ids.gather(1, forth), depth=depth).logits
        return logits.gather(1, back[:, :, None].expand_as(logits))

    def _new_cache(self, input_ids: Tensor, attention_mask: Tensor | None, depth: int | None) -> DecoderCache:
        padding = None
        if attention_mask is not None and not attention_mask.all():
            if not attention_mask[:, -1].all():
                raise ValueError("attention_mask: a row ends in padding: to generate, pad on the left")
            padding = left_padding(attention_mask)
        at = FixedDepthModel(self.odeformer, depth)
        capacity = at.config.context_length
        assert capacity is not None
        return DecoderCache(Decoder(at, input_ids.shape[0], capacity, padding), at.depth)

    def _decode(self, cache: DecoderCache, input_ids: Tensor, depth: int | None, last_only: bool) -> Tensor:
        depth = self.odeformer.config.depth if depth is None else depth
        if depth != cache.depth:
            raise ValueError(f"depth {depth}: the past tokens were read at depth {cache.depth}")
        total, most = cache.decoder.length + input_ids.shape[1], self.config.max_position_embeddings
        if total > most:
            raise ValueError(f"a sequence of {total} tokens is longer than context_length {most}")
        return cache.decoder.read(input_ids, last_only)


def left_padding(attention_mask: Tensor) -> Tensor:
    """The number of padding tokens at the start of each row, [batch], from a mask [batch, tokens].

    Raises:
        ValueError: for padding between tokens, or a row that is all padding.
    """
    mask = attention_mask.bool()
    first = mask.int().argmax(dim=1)
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
    if not torch.equal(mask.sum(dim=1), last - first + 1):
        raise ValueError("attention_mask: padding must be at the ends of a row, with a token between them")
    return first


def _one_device(device_map: Any) -> torch.device:
    if isinstance(device_map, dict) and set(device_map) == {""}:
        device_map = device_map[""]
    try:
        return torch.device("cpu" if device_map is None else device_map)
    except (RuntimeError, TypeError):
        raise ValueError(
            f"device_map {device_map!r}: the model runs on one device; name it, such as 'cuda'"
        ) from None


AutoConfig.register(OdeformerConfig.model_type, OdeformerConfig, exist_ok=True)
AutoModelForCausalLM.register(OdeformerConfig, OdeformerForCausalLM, exist_ok=True)
AutoTokenizer.register(OdeformerConfig, fast_tokenizer_class=OdeformerTokenizer, exist_ok=True)
