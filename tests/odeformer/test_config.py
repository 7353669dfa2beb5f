from typing import Any

import pytest
from tiny_models import config, run_python

from odeformer.config import AdapterConfig, BasisConfig, ModelConfig
from odeformer.model import Odeformer


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"width": 18, "heads": 4}, "width 18 is not divisible by heads 4"),
        ({"width": 24, "heads": 4, "rotary_fraction": 0.5}, "rotary_fraction 0.5"),  # 3 of 6: odd
        ({"rotary_fraction": 0.2}, "rotary_fraction 0.2"),  # 1 of 8
        ({"rotary_fraction": 0.1}, "rotary_fraction 0.1"),  # 0 of 8
        ({"rotary_fraction": 1.1}, "rotary_fraction"),
        ({"depth": 0}, "depth"),
        ({"heads": 0}, "heads"),
        ({"width": 0}, "width"),
        ({"feed_forward_width": 0}, "feed_forward_width"),
        ({"vocabulary_size": 0}, "vocabulary_size"),
        ({"context_length": 0}, "context_length"),
        ({"flavour": "mamba"}, "flavour"),
        ({"witdh": 32}, "witdh"),
    ],
)
def test_bad_shapes_are_refused_and_the_setting_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        config(**changes)


@pytest.mark.parametrize(
    ("basis", "named"),
    [
        ({"kind": "smooth_mlp", "size": 0}, "size"),
        ({"kind": "wavelet", "size": 2}, "kind"),
    ],
)
def test_bad_bases_are_refused(basis: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BasisConfig.model_validate(basis)


def test_a_removed_setting_is_read_with_its_default_alone() -> None:
    assert BasisConfig.model_validate({"size": 2, "low_rank": None, "step_aware": False}) == BasisConfig(
        size=2
    )
    with pytest.raises(ValueError, match="low_rank"):
        BasisConfig.model_validate({"size": 2, "low_rank": 3})


@pytest.mark.parametrize(("kind", "size", "needed"), [("none", 3, "4"), ("fourier_mlp", 1, "at least 2")])
def test_a_basis_with_too_few_weight_sets_is_refused(kind: str, size: int, needed: str) -> None:
    with pytest.raises(ValueError, match=rf"needs basis\.size {needed} at depth 4, not {size}"):
        config(kind, size)


@pytest.mark.parametrize(
    "changes", [{"rank": 0}, {"alpha": 0.0}, {"size": 0}, {"targets": ("final_norm",)}, {"dropout": 0.1}]
)
def test_bad_adapters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        AdapterConfig(**changes)


@pytest.mark.parametrize("missing", ["vocabulary_size", "context_length"])
def test_a_model_needs_its_vocabulary_and_context(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        Odeformer(config(**{missing: None}))


def test_settings_cannot_be_changed_afterwards() -> None:
    shape = config()
    with pytest.raises(ValueError, match="frozen"):
        shape.width = 32  # type: ignore[misc]


def test_derived_widths() -> None:
    shape = config(width=48, heads=3, rotary_fraction=0.25)
    assert (shape.head_width, shape.rotary_dimensions, shape.hidden_width) == (16, 4, 192)
    assert config(feed_forward_width=24).hidden_width == 24


def test_ordinary_model_has_the_same_shape_and_a_valid_config() -> None:
    shape = config(size=2, depth=6, tie_embeddings=False)
    ordinary = shape.ordinary()
    assert ordinary.basis == BasisConfig(kind="none", size=6)
    assert ordinary == ModelConfig.model_validate(ordinary.model_dump())
    assert ordinary.model_copy(update={"basis": shape.basis}) == shape


def test_json_round_trip() -> None:
    shape = config(feed_forward_width=24)
    assert ModelConfig.model_validate_json(shape.model_dump_json()) == shape
    adapter = AdapterConfig(rank=3, targets=("up", "qkv"))
    assert AdapterConfig.model_validate_json(adapter.model_dump_json()) == adapter


def test_settings_and_solvers_load_without_torch() -> None:
    code = (
        "import sys, odeformer.solvers, odeformer.config, odeformer.depth, cluster.settings\n"
        "print([m for m in ('torch', 'transformers', 'ray', 'deepspeed', 'mlflow') if m in sys.modules])"
    )
    assert run_python(code).strip() == "[]"
