"""Export to, and import from, ``transformers`` and llama.cpp."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cluster import registry
from cluster import tags as tag
from cluster.evaluation.text import loss_at_depth, read_ids
from cluster.registry import Loaded, Version
from cluster.tracking import runs, store
from cluster.tracking.lineage import code_tags
from data.chat import ChatTemplate
from data.tokenizer import end_of_text, load_tokenizer
from data.tokenizer_config import CONFIG_NAME, tokenizer_config
from launcher.tables.model_card import model_card
from odeformer import checkpoint
from odeformer.config import BasisConfig, ModelConfig
from odeformer.files.atomic import named
from odeformer.files.digest import folder_digest
from odeformer.interop import continuous
from odeformer.interop.hf import exporting
from odeformer.interop.hf.importing import compare, read_ordinary
from odeformer.interop.hf.silence import silence
from odeformer.interop.materialize import layer_solver
from odeformer.measure.text_loss import text_loss
from odeformer.model import Odeformer, SolveOptions, parameter_count


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    layers: int
    solver: str
    """The solver whose steps the layers are."""
    trained_by: str
    difference: float
    """Largest difference of logits after loading the export, over their standard deviation."""
    losses: dict[str, float]
    """Nats per token on the text by solver; empty without a text."""
    in_half: int = 0
    """Number of matrices in half precision because 8-bit blocks do not fit them."""


def export(
    model: str,
    adapter: str | None,
    depth: int | None,
    peft: bool,
    gguf: str | None,
    text: Path | None,
    out: Path,
    tracking_uri: str | None,
) -> Exported:
    """Write a model at a depth as an ordinary transformer; ``out`` is replaced if it exists.

    Args:
        model: ``models:/…`` or a checkpoint folder.
        adapter: Adapter to merge.
        depth: Number of layers N; the model's depth by default.
        peft: Write only the adapter, for ``peft`` on the base at this depth.
        gguf: Write a GGUF file for llama.cpp with matrices of this type.
        text: File to measure the loss on, for the model card.
        out: Output folder, with ``gguf`` the output file; an absolute path.
        tracking_uri: MLflow tracking URI.
    """
    silence()
    loaded = registry.load(model, tracking_uri, adapter)
    config, solver = loaded.model.config, layer_solver(loaded.model)
    layers, in_half = config.depth if depth is None else depth, 0
    tokenizer, stop_token = loaded.folder / "tokenizer.json", end_of_text(loaded.tokenizer)

    losses = {} if text is None else _losses_by_solver(text, loaded, depth, solver)
    about = loaded.tokenizer_config
    has_template = checkpoint.CHAT_TEMPLATE in about
    chat_template = ChatTemplate.of(loaded.tokenizer, about).text if has_template else None
    if gguf:
        from odeformer.interop.gguf.writing import export_gguf  # an optional package

        name = f"{adapter or model} at {layers} layers"
        written = export_gguf(loaded.model, tokenizer, depth, gguf, name, out, stop_token, chat_template)
        difference, in_half = written.difference, written.in_half
    elif peft:
        checkpoints = [v.uri for v in loaded.versions if v.kind == "checkpoint"]
        difference = exporting.export_adapter(
            loaded.model, depth, [*checkpoints, model][0], out, chat_template
        )
    else:
        card = model_card(config, layers, solver, adapter or model, loaded.versions, losses)
        difference = exporting.export(loaded.model, tokenizer, depth, card, out, stop_token, about)
    return Exported(layers, solver, loaded.model.solver, difference, losses, in_half)


@dataclass(frozen=True)
class Imported:
    """The result of an import."""

    layers: int
    size: int
    """Number of weight sets K."""
    parameters: int
    ordinary_parameters: int
    condition: float
    """Condition number of the coefficients at the layers' times."""
    error: float
    """Relative error of the layers' weights."""
    difference: float
    """Largest difference of logits from those of ``transformers`` at N = L, over their standard deviation."""
    losses: dict[str, float]
    """Nats per token on the text, of the original and of the model at each N; empty without a text."""
    version: Version | None
    not_registered: str | None
    """Why the registry did not take the model, which is in its folder."""


def import_checkpoint(
    source: Path, out: Path, size: int, text: Path | None, register_as: str | None, tracking_uri: str | None
) -> Imported:
    """Convert a checkpoint of ``transformers`` to a continuous-depth model; ``out`` is replaced if it exists.

    Args:
        source: Folder of the checkpoint, with a ``tokenizer.json``.
        out: Checkpoint folder to write, an absolute path.
        size: Number of weight sets K; 0 takes the number of layers.
        text: File to measure the loss on, before and after.
        register_as: Name to register the model under.
        tracking_uri: MLflow tracking URI.
    """
    silence()
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
    difference = compare(source, ordinary, model)
    losses = {}
    if text is not None:
        losses = _losses_by_depth(read_ids(text, tokenizer), ordinary.model(), model, layers)
    with TemporaryDirectory() as about_tokenizer:
        copy = Path(about_tokenizer) / "tokenizer.json"
        with named(copy):
            copy.write_bytes((source / "tokenizer.json").read_bytes())
            if (known := tokenizer_config(source)) is not None:
                copy.with_name(CONFIG_NAME).write_bytes(known)
        checkpoint.save(model.state_dict(), model.config, model.solver, copy, out)
    version, not_registered = None, None
    if register_as is not None:
        try:
            version = _register(out, register_as, source, model.config, losses, tracking_uri)
        except (ValueError, OSError) as error:  # what was computed is shown in any case
            not_registered = str(error)
    return Imported(
        layers=layers,
        size=size,
        parameters=parameter_count(model.config),
        ordinary_parameters=parameter_count(ordinary.config),
        condition=fit.condition,
        error=fit.error,
        difference=difference,
        losses=losses,
        version=version,
        not_registered=not_registered,
    )


def _losses_by_solver(text: Path, loaded: Loaded, depth: int | None, layer_solver: str) -> dict[str, float]:
    """Losses with the solver a model was trained with, and with the one whose steps are ordinary layers."""
    model, ids = loaded.model, read_ids(text, loaded.tokenizer)
    solvers = dict.fromkeys((model.solver, layer_solver))
    return {solver: loss_at_depth(model, ids, depth, SolveOptions(solver)) for solver in solvers}


def _losses_by_depth(
    ids: torch.Tensor, original: torch.nn.Module, model: Odeformer, layers: int
) -> dict[str, float]:
    assert model.config.context_length is not None
    losses = {"original": text_loss(lambda x: original(x).logits, ids, model.config.context_length)}
    for depth in (max(layers // 2, model.config.prelude_layers + 1), layers, 2 * layers):
        losses[f"N = {depth}"] = loss_at_depth(model, ids, depth)
    return losses


def _register(
    folder: Path, name: str, source: Path, config: ModelConfig, losses: dict[str, float], uri: str | None
) -> Version:
    uri = store.tracking_uri(uri)
    origin = {"imported_from": str(source), "imported_digest": folder_digest(source)}
    metrics = {f"loss {key}".replace("=", "").replace("  ", " "): value for key, value in losses.items()}
    run_id = runs.finished_run(uri, "imports", name, origin, metrics)
    tags = {
        tag.KIND: "checkpoint",
        tag.PARAMETERS: str(parameter_count(config)),
        tag.ORDINARY_PARAMETERS: str(parameter_count(config.ordinary())),
        tag.DEPTHS: str(config.depth),
        tag.IMPORTED_FROM: source.name,
        tag.IMPORTED_DIGEST: origin["imported_digest"],
    }
    scores = {int(key.removeprefix("N = ")): loss for key, loss in losses.items() if key.startswith("N = ")}
    about = registry.About({"import": origin}, scores=scores, code=code_tags())
    return registry.register_version(
        folder, name, run_id=run_id, uri=uri, tags=tags, alias="candidate", about=about
    )
