"""``odeformer models export`` and ``import``: out into the ordinary world, and in from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.names import check_model_name
from cluster.registry import Version
from launcher import preflight
from odeformer.config import BasisConfig
from odeformer.files.checks import TRANSFORMERS_EXPECTED, check_is_there, check_output, check_output_file


@dataclass(frozen=True)
class Exported:
    """What was written."""

    layers: int
    solver: str
    """Whose steps the layers are."""
    trained_by: str
    difference: float
    """Of logits, the largest, over their standard deviation."""
    losses: dict[str, float]
    """Nats per token on the text, by whose steps they are; empty without one."""
    in_half: int = 0
    """Matrices that 8 bits in blocks do not fit, in half precision instead."""


def export(
    model: str,
    adapter: str | None,
    depth: int | None,
    peft: bool,
    gguf: str | None,
    text: Path | None,
    out: Path,
    overwrite: bool,
    tracking_uri: str | None,
) -> Exported:
    """Write a model at a depth for ``transformers``, or with ``peft`` its adapter alone for that, or with
    ``gguf``, a precision, as a file for llama.cpp. The loss on a ``text`` goes into the model card."""
    if peft and gguf:
        raise ValueError("give either --peft or --gguf")
    if text is not None and (peft or gguf):
        raise ValueError("--text is for a whole checkpoint: leave it out, or --peft and --gguf")
    out = out.absolute()
    check = check_output_file if gguf else check_output
    check(out, [Path(name) for name in (model, adapter) if name], overwrite)
    if gguf:
        _check_gguf()
    preflight.at_model(model, tracking_uri, adapter)
    _silence_transformers()
    from cluster import registry
    from data.tokenizer import end_of_text
    from launcher.tables.model_card import model_card
    from odeformer.interop.hf import exporting
    from odeformer.interop.materialise import layer_solver

    loaded = registry.load(model, tracking_uri, adapter)
    shape, solver = loaded.model.config, layer_solver(loaded.model)
    layers, in_half = shape.depth if depth is None else depth, 0
    tokenizer = loaded.folder / "tokenizer.json"
    losses = {} if text is None else _losses_by_solver(text, loaded, depth, solver)
    if gguf:
        from odeformer.interop.gguf.writing import export_gguf

        name = f"{adapter or model} at {layers} layers"
        written = export_gguf(loaded.model, tokenizer, depth, gguf, name, out, end_of_text(loaded.tokenizer))
        difference, in_half = written.difference, written.in_half
    elif peft:
        known = [v.uri for v in loaded.versions if v.kind == "checkpoint"]
        base = known[0] if known else model
        difference = exporting.export_adapter(loaded.model, depth, base, out)
    else:
        card = model_card(shape, layers, solver, adapter or model, loaded.versions, losses)
        difference = exporting.export(
            loaded.model, tokenizer, depth, card, out, end_of_text(loaded.tokenizer)
        )
    return Exported(layers, solver, loaded.model.solver, difference, losses, in_half)


def _check_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError:
        raise ValueError("--gguf needs the package gguf: install it with pip install -e '.[gguf]'") from None


@dataclass(frozen=True)
class Imported:
    """What became of an ordinary checkpoint."""

    layers: int
    size: int
    """K."""
    parameters: int
    ordinary_parameters: int
    condition: float
    """Of the coefficients at the layers' times."""
    error: float
    """Of the layers, relative."""
    losses: dict[str, float]
    """Nats per token on the text, of the original and of the model at each N; empty without one."""
    version: Version | None


def import_checkpoint(
    source: Path,
    out: Path,
    size: int,
    overwrite: bool,
    text: Path | None,
    register_as: str | None,
    tracking_uri: str | None,
) -> Imported:
    """Read a checkpoint of ``transformers`` as a continuous-depth model of K weight sets.

    Args:
        source: its folder, with a ``tokenizer.json``.
        out: the checkpoint folder to write.
        size: K, as many as there are layers when 0.
        overwrite: replace ``out`` where it is there.
        text: a file to measure the loss on, before and after.
        register_as: a name in the registry.
    """
    out = out.absolute()
    check_output(out, [source], overwrite)
    if register_as is not None:
        check_model_name(register_as)
    check_is_there(source / "config.json", TRANSFORMERS_EXPECTED)
    _silence_transformers()
    from data.tokenizer import load_tokenizer
    from odeformer import checkpoint
    from odeformer.interop import continuous
    from odeformer.interop.hf.importing import read_ordinary
    from odeformer.model import parameter_count

    tokenizer = load_tokenizer(source)
    ordinary = read_ordinary(source)
    assert ordinary.config.vocabulary_size is not None
    if tokenizer.get_vocab_size() > ordinary.config.vocabulary_size:
        raise ValueError(
            f"{source / 'tokenizer.json'} has {tokenizer.get_vocab_size()} tokens, the model "
            f"{ordinary.config.vocabulary_size}: it belongs to another one"
        )
    layers = ordinary.config.depth
    size = size or layers
    model, fit = continuous(ordinary, BasisConfig(size=size))
    losses = {}
    if text is not None:
        losses = _losses(text, tokenizer, ordinary.model(), model, layers)
    checkpoint.save(model.state_dict(), model.config, model.solver, source / "tokenizer.json", out)
    version = None
    if register_as is not None:
        version = _register(out, register_as, source, model.config, losses, tracking_uri)
    return Imported(
        layers=layers,
        size=size,
        parameters=parameter_count(model.config),
        ordinary_parameters=parameter_count(ordinary.config),
        condition=fit.condition,
        error=fit.error,
        losses=losses,
        version=version,
    )


def _losses_by_solver(text: Path, loaded: Any, depth: int | None, layer_solver: str) -> dict[str, float]:
    """Of a model by the solver it was trained with, and by the one whose steps are ordinary layers."""
    from odeformer.measure.text_loss import text_loss
    from odeformer.model import SolveOptions

    model, ids, losses = loaded.model, _token_ids(text, loaded.tokenizer), {}
    for solver in dict.fromkeys((model.solver, layer_solver)):
        logits_of = partial(_logits, model, depth, SolveOptions(solver))
        losses[solver] = text_loss(logits_of, ids, model.config.context_length)
    return losses


def _logits(model: Any, depth: int | None, options: Any, ids: Any) -> Any:
    return model(ids, depth=depth, options=options).logits


def _token_ids(text: Path, tokenizer: Any) -> Any:
    import torch

    return torch.tensor(tokenizer.encode(text.read_text(encoding="utf-8"), add_special_tokens=False).ids)


def _losses(text: Path, tokenizer: Any, original: Any, model: Any, layers: int) -> dict[str, float]:
    from odeformer.measure.text_loss import text_loss

    ids = _token_ids(text, tokenizer)
    context = model.config.context_length

    def at_depth(depth: int, x: Any) -> Any:
        return model(x, depth=depth).logits

    losses = {"original": text_loss(lambda x: original(x).logits, ids, context)}
    for depth in (max(layers // 2, model.config.prelude_layers + 1), layers, 2 * layers):
        losses[f"N = {depth}"] = text_loss(partial(at_depth, depth), ids, context)
    return losses


def _register(
    folder: Path, name: str, source: Path, shape: Any, losses: dict[str, float], uri: str | None
) -> Version:
    from cluster import registry
    from cluster import tags as tag
    from cluster.tracking import runs, store
    from cluster.tracking.lineage import code_tags
    from odeformer.files.digest import folder_digest
    from odeformer.model import parameter_count

    uri = store.tracking_uri(uri)
    origin = {"imported_from": str(source), "imported_digest": folder_digest(source)}
    metrics = {f"loss {key}".replace("=", "").replace("  ", " "): value for key, value in losses.items()}
    run_id = runs.finished_run(uri, "imports", name, origin, metrics)
    tags = {
        tag.KIND: "checkpoint",
        tag.PARAMETERS: str(parameter_count(shape)),
        tag.ORDINARY_PARAMETERS: str(parameter_count(shape.ordinary())),
        tag.DEPTHS: str(shape.depth),
        tag.IMPORTED_FROM: source.name,
        tag.IMPORTED_DIGEST: origin["imported_digest"],
    }
    scores = {int(key.removeprefix("N = ")): loss for key, loss in losses.items() if key.startswith("N = ")}
    about = registry.About({"import": origin}, scores=scores, code=code_tags())
    return registry.register_version(
        folder, name, run_id=run_id, uri=uri, tags=tags, alias="candidate", about=about
    )


def _silence_transformers() -> None:
    """Its progress bars, and its hints about what a file lacks that is not used."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
