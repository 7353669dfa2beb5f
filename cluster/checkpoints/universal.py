"""Conversion of a committed state for another number of workers or another ZeRO stage.

The state is split by parameter with DeepSpeed's universal format. DeepSpeed's own loading is not used: it
reads only states of the same stage, does not support stage 0, and at stage 3 gives all parameter groups the
settings of the first one, including learning rate and weight decay, and a shared step counter.
"""

from __future__ import annotations

import contextlib
import io
from argparse import Namespace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from cluster.runs.deepspeed_import import import_deepspeed

WEIGHT, MOMENTS, MOMENTUM = "fp32", ("exp_avg", "exp_avg_sq"), "momentum_buffer"
"""The weights of a parameter, AdamW's moments, and Muon's one."""
OPTIMIZER_FILES = "*_optim_states.pt"
NAMES = "trained_parameters"
"""Key, in a state of stage 0, of the parameters' names in AdamW's order: DeepSpeed stores only numbers."""


def parameter_names(engine: Any) -> list[str]:
    """Names of the parameters in the order of the optimizer's state, for an engine at stage 0."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    parameters = chain.from_iterable(group["params"] for group in engine.optimizer.param_groups)
    return [names[id(parameter)] for parameter in parameters]


def convert(state: Path, target: Path, stage: int) -> None:
    """Split a state that DeepSpeed saved at ``stage`` by parameter, into a folder for :func:`load`."""
    target.mkdir(parents=True)
    if stage == 0:
        _convert_stage_0(state, target)
    else:
        _convert_partitions(state, target)


def _convert_stage_0(state: Path, target: Path) -> None:
    saved = torch.load(state / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False)
    states = saved["optimizer"]["state"]
    for number, name in enumerate(saved[NAMES]):
        folder = target / "zero" / name
        folder.mkdir(parents=True)
        torch.save(saved["module"][name], folder / f"{WEIGHT}.pt")
        for moment in {*MOMENTS, MOMENTUM} & states[number].keys():
            torch.save(states[number][moment], folder / f"{moment}.pt")
    torch.save(_step(states), target / "step.pt")


def _step(states: dict[int, dict[str, Any]]) -> Any:
    """The number of steps that AdamW has made; Muon does not count them."""
    return next(state["step"] for state in states.values() if "step" in state)


def _convert_partitions(state: Path, target: Path) -> None:
    import_deepspeed()
    from deepspeed.checkpoint import ds_to_universal

    saved = torch.load(min(state.glob(OPTIMIZER_FILES)), map_location="cpu", weights_only=False)
    saved = saved["optimizer_state_dict"]
    optimizer = saved.get("base_optimizer_state") or saved["optimizer_state_dict"]
    # DeepSpeed does not write the step for stage 3.
    torch.save(_step(optimizer["state"]), target / "step.pt")
    momenta: dict[str, Tensor] = {}
    if any(group.get("use_muon") for group in optimizer["param_groups"]):
        momenta = _take_momenta(state, target / "without_muon")
        state = target / "without_muon"
    arguments = Namespace(
        input_folder=str(state),
        output_folder=str(target),
        # In this process: a fork of one with a process group and threads may hang.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    for name, momentum in momenta.items():
        torch.save(momentum, target / "zero" / name / f"{MOMENTUM}.pt")


def _take_momenta(state: Path, copy: Path) -> dict[str, Tensor]:
    """Muon's momentum of each parameter; the state is copied with zeros in its place, as moments of AdamW.

    DeepSpeed's format knows AdamW alone. At stages 1 and 2 a rank holds, one after another, the whole momenta
    of all parameters that have a part in its partition.
    """
    saved = torch.load(min(state.glob("*model_states.pt")), map_location="cpu", weights_only=False)
    shapes = {name: shape for group in saved["param_shapes"] for name, shape in group.items()}
    momenta: dict[str, Tensor] = {}
    copy.mkdir()
    for file in state.iterdir():
        if not file.match(OPTIMIZER_FILES):
            (copy / file.name).symlink_to(file.absolute())
            continue
        saved = torch.load(file, map_location="cpu", weights_only=False)
        partition = saved["optimizer_state_dict"]
        for number, held in partition["base_optimizer_state"]["state"].items():
            if MOMENTUM in held:
                names = partition["param_slice_mappings"][number]
                parts = held.pop(MOMENTUM).split([shapes[name].numel() for name in names])
                momenta |= {name: part.view(shapes[name]) for name, part in zip(names, parts, strict=True)}
                flat = partition["single_partition_of_fp32_groups"][number]
                held |= {key: torch.zeros_like(flat) for key in MOMENTS}
        torch.save(saved, copy / file.name)
    return momenta


def load(engine: Any, folder: Path) -> None:
    """Load what :func:`convert` wrote. All ranks must call it; the engine may have trained before.

    The parameter groups keep their own settings.
    """
    parameters = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    _load_weights(engine, parameters, folder)
    step = torch.as_tensor(torch.load(folder / "step.pt", weights_only=True), dtype=torch.float32)
    match engine.zero_optimization_stage():
        case 0:
            for name, parameter in parameters.items():
                engine.optimizer.state[parameter] = (
                    {MOMENTUM: _read(folder, name, MOMENTUM, parameter)}
                    if _is_of_muon(parameter)
                    else {
                        "step": step.clone(),
                        **{key: _read(folder, name, key, parameter) for key in MOMENTS},
                    }
                )
        case 1 | 2:
            _load_moments_of_fragments(engine.optimizer, parameters, folder, step)
        case 3:
            _load_moments_of_partitions(engine.optimizer, parameters, folder, step)


def _load_weights(engine: Any, parameters: dict[str, nn.Parameter], folder: Path) -> None:
    deepspeed, partitioned = import_deepspeed(), engine.zero_optimization_stage() == 3
    for name, parameter in parameters.items():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=partitioned):
            if not partitioned or dist.get_rank() == 0:
                parameter.data.copy_(_read(folder, name, WEIGHT, parameter))
    if engine.zero_optimization_stage():
        engine.optimizer.refresh_fp32_params()


def _load_moments_of_fragments(
    optimizer: Any, parameters: dict[str, nn.Parameter], folder: Path, step: Tensor
) -> None:
    """Stages 1 and 2: a rank holds a range of each flat group, with arbitrary parameter boundaries."""
    from deepspeed.utils import safe_set_full_optimizer_state

    _begin_states(optimizer.optimizer, optimizer.single_partition_of_fp32_groups, step)
    names = {id(parameter): name for name, parameter in parameters.items()}
    for flat, held in zip(
        optimizer.single_partition_of_fp32_groups, optimizer.params_in_partition, strict=True
    ):
        if held and _is_of_muon(held[0]):
            momenta = [_read(folder, names[id(parameter)], MOMENTUM, parameter) for parameter in held]
            optimizer.optimizer.state[flat] = {
                MOMENTUM: torch.cat([momentum.flatten() for momentum in momenta])
            }
    # DeepSpeed would link parameters to their moments in the first step, which comes later.
    optimizer._hp_optimizer_states_linked = False
    optimizer._lazy_init_hp_params_optimizer_state()
    for name, parameter in parameters.items():
        for key in () if _is_of_muon(parameter) else MOMENTS:
            safe_set_full_optimizer_state(parameter, _read(folder, name, key, parameter), key)


def _load_moments_of_partitions(
    optimizer: Any, parameters: dict[str, nn.Parameter], folder: Path, step: Tensor
) -> None:
    """Stage 3: a rank holds an equal part of each parameter, padded with zeros at the end."""
    from deepspeed.utils import safe_set_local_optimizer_state

    _begin_states(optimizer.optimizer, optimizer.fp32_partitioned_groups_flat, step)
    rank, workers = dist.get_rank(), dist.get_world_size()
    for name, parameter in parameters.items():
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        for key in MOMENTS:
            whole = _read(folder, name, key, parameter).flatten()
            parts = functional.pad(whole, (0, size * workers - whole.numel())).split(size)
            safe_set_local_optimizer_state(parameter, parts[rank], key)


def _is_of_muon(parameter: Tensor) -> bool:
    return getattr(parameter, "use_muon", False)


def _begin_states(adamw: torch.optim.Optimizer, flat_groups: list[Tensor], step: Tensor) -> None:
    for flat in flat_groups:
        moments = {key: torch.zeros_like(flat) for key in MOMENTS}
        adamw.state[flat] = {"step": step.clone(), **moments}


def _read(folder: Path, name: str, key: str, like: nn.Parameter) -> Tensor:
    """The complete weight or moment of a parameter, in its shape."""
    content = torch.load(folder / "zero" / name / f"{key}.pt", map_location=like.device, weights_only=True)
    # DeepSpeed writes a dictionary at stages 1 and 2, and a flat tensor at stage 3.
    tensor: Tensor = content["param"] if isinstance(content, dict) else content
    return tensor.reshape(getattr(like, "ds_shape", like.shape))
