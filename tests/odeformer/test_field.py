import math

import pytest
import torch
from tiny_models import attach_adapter, cell_scales, config, ids, tiny_model
from torch import Tensor
from torch.nn import functional as F

from odeformer.field import block_tensors
from odeformer.field.neox import NeoXField
from odeformer.field.parts import project, rotary_table, rotate
from odeformer.lora import merge
from odeformer.model import Odeformer, SolveOptions

BRANCH_ENDS = ("out_weight", "out_bias", "down_weight", "down_bias")


def gpt_neox_logits(model: Odeformer, input_ids: Tensor, depth: int, parallel: bool) -> Tensor:
    """Logits of transformers' GPT-NeoX with W(t) at N nodes as its layers, h·D folded into both branches."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    shape = model.config
    other = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=shape.vocabulary_size,
            hidden_size=shape.width,
            num_hidden_layers=depth,
            num_attention_heads=shape.heads,
            intermediate_size=shape.hidden_width,
            max_position_embeddings=shape.context_length,
            hidden_act="gelu",
            layer_norm_eps=1e-5,
            tie_word_embeddings=shape.tie_embeddings,
            use_parallel_residual=parallel,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": shape.rotary_fraction,
            },
            attn_implementation="eager",
        )
    ).eval()
    weights = model.depth_weights(depth)
    state = {
        "gpt_neox.embed_in.weight": model.embedding.weight,
        "gpt_neox.final_layer_norm.weight": model.final_norm.weight,
        "gpt_neox.final_layer_norm.bias": model.final_norm.bias,
    }
    if model.unembedding is not None:
        state["lm_head.weight"] = model.unembedding.weight
    places = {
        "attention_norm": "input_layernorm",
        "qkv": "attention.query_key_value",
        "out": "attention.dense",
        "feed_forward_norm": "post_attention_layernorm",
        "up": "mlp.dense_h_to_4h",
        "down": "mlp.dense_4h_to_h",
    }
    for ours, theirs in places.items():
        for part in ("weight", "bias"):
            for layer, scale in enumerate(cell_scales(model, depth)):
                fold = scale if f"{ours}_{part}" in BRANCH_ENDS else 1.0
                state[f"gpt_neox.layers.{layer}.{theirs}.{part}"] = weights[f"{ours}_{part}"][layer] * fold
    missing, unexpected = other.load_state_dict(state, strict=False)
    assert set(missing) <= ({"lm_head.weight"} if shape.tie_embeddings else set())
    assert not unexpected
    with torch.no_grad():
        return other(input_ids).logits


@pytest.mark.parametrize("depth", [4, 8, 3])
@pytest.mark.parametrize(("solver", "parallel"), [("euler", True), ("lie_trotter", False)])
@pytest.mark.parametrize(
    "changes",
    [
        {"rotary_fraction": 0.25, "tie_embeddings": True},
        {"rotary_fraction": 1.0, "tie_embeddings": False, "heads": 1, "feed_forward_width": 24},
    ],
    ids=["tied, part rotated", "untied, all rotated"],
)
def test_the_discrete_model_is_gpt_neox(changes: dict, solver: str, parallel: bool, depth: int) -> None:
    model = tiny_model(**changes).eval()
    model.options = SolveOptions(solver)
    with torch.no_grad():
        ours = model(ids(), depth=depth).logits
    torch.testing.assert_close(ours, gpt_neox_logits(model, ids(), depth, parallel), rtol=1e-5, atol=1e-5)
    # The comparison is sharp enough to tell the two residual forms apart.
    wrong = gpt_neox_logits(model, ids(), depth, not parallel)
    assert (ours - wrong).abs().max() > 1e-2


def test_euler_at_the_model_depth_is_the_residual_loop_bit_for_bit() -> None:
    model = tiny_model(depth=6)
    for solver in ("euler", "lie_trotter"):
        model.options = SolveOptions(solver)
        with torch.no_grad():
            weights = model.depth_weights(6)
            field = NeoXField(model.config, *rotary_table(model.config, 10, torch.zeros(())))
            x = model.embedding(ids())
            for layer in range(6):
                w = {name: stacked[layer] for name, stacked in weights.items()}
                if solver == "euler":
                    x = x + (field.attention(x, w) + field.feed_forward(x, w))
                else:
                    x = x + field.attention(x, w)
                    x = x + field.feed_forward(x, w)
            expected = F.linear(model.final_norm(x), model.embedding.weight)
            assert torch.equal(model(ids()).logits, expected)
            assert torch.equal(model(ids(), weights=weights).logits, expected)


def test_attention_equals_the_textbook_with_complex_rotations() -> None:
    """A slow reference: one query at a time, rotations as complex numbers, softmax over the past."""
    shape = config(width=24, heads=3, rotary_fraction=0.5)  # 4 of 8 dimensions are rotated
    w = {name: torch.randn(spec.shape, dtype=torch.float64) for name, spec in block_tensors(shape).items()}
    length, head, turned = 7, shape.head_width, shape.rotary_dimensions
    x = torch.randn(1, length, shape.width, dtype=torch.float64)
    field = NeoXField(shape, *rotary_table(shape, length, x))

    centered = x[0] - x[0].mean(-1, keepdim=True)
    normed = centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normed = normed * w["attention_norm_weight"] + w["attention_norm_bias"]
    qkv = normed @ w["qkv_weight"].T + w["qkv_bias"]

    def rotated(vector: Tensor, position: int) -> Tensor:
        half = turned // 2
        numbers = torch.complex(vector[:half], vector[half:turned])
        speeds = torch.tensor([10000 ** (-2 * j / turned) for j in range(half)], dtype=torch.float64)
        numbers = numbers * torch.exp(1j * position * speeds)
        return torch.cat([numbers.real, numbers.imag, vector[turned:]])

    mixed = torch.zeros(length, shape.width, dtype=torch.float64)
    for i in range(shape.heads):
        query, key, value = qkv[:, 3 * head * i : 3 * head * (i + 1)].split(head, dim=1)
        for now in range(length):
            scores = torch.stack(
                [rotated(query[now], now) @ rotated(key[past], past) for past in range(now + 1)]
            )
            attention = torch.softmax(scores / math.sqrt(head), dim=0)
            mixed[now, head * i : head * (i + 1)] = attention @ value[: now + 1]
    expected = mixed @ w["out_weight"].T + w["out_bias"]
    torch.testing.assert_close(field.attention(x, w)[0], expected, rtol=1e-5, atol=1e-5)


def test_rotary_scores_depend_on_distance_only() -> None:
    shape = config(rotary_fraction=0.5)
    cos, sin = rotary_table(shape, 12, torch.zeros(()))
    query, key = torch.randn(2, shape.head_width)
    places = torch.ones(12, 1)
    scores = rotate(places * query, cos, sin) @ rotate(places * key, cos, sin).T
    for distance in range(-11, 12):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert scores[0].std() > 0.01


def test_feed_forward_uses_the_exact_gelu() -> None:
    shape = config()
    w = {name: torch.randn(spec.shape, dtype=torch.float64) for name, spec in block_tensors(shape).items()}
    x = torch.randn(2, 3, shape.width, dtype=torch.float64)
    field = NeoXField(shape, *rotary_table(shape, 3, x))
    normed = F.layer_norm(x, (shape.width,), eps=1e-5)
    normed = normed * w["feed_forward_norm_weight"] + w["feed_forward_norm_bias"]
    up = normed @ w["up_weight"].T + w["up_bias"]
    hidden = up / 2 * (1 + torch.erf(up / math.sqrt(2)))
    expected = hidden @ w["down_weight"].T + w["down_bias"]
    torch.testing.assert_close(field.feed_forward(x, w), expected, rtol=1e-12, atol=1e-12)


def test_projection_with_a_low_rank_pair_is_the_merged_projection() -> None:
    w = {
        "up_weight": torch.randn(12, 8, dtype=torch.float64),
        "up_bias": torch.randn(12, dtype=torch.float64),
        "up_lora_a": torch.randn(2, 8, dtype=torch.float64),
        "up_lora_b": torch.randn(12, 2, dtype=torch.float64),
    }
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    full = w["up_weight"] + w["up_lora_b"] @ w["up_lora_a"]
    expected = x @ full.T + w["up_bias"]
    torch.testing.assert_close(project(x, w, "up"), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(project(x, merge(w), "up"), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "rk4", "lie_trotter"])
def test_a_later_token_never_changes_an_earlier_logit(solver: str) -> None:
    model = tiny_model().eval()
    model.options = SolveOptions(solver)
    attach_adapter(model, rank=2)
    before = ids(batch=1)
    with torch.no_grad():
        logits = model(before, depth=3).logits
        for place in range(1, before.shape[1]):
            after = before.clone()
            after[0, place:] = (after[0, place:] + 7) % model.config.vocabulary_size
            changed = model(after, depth=3).logits
            assert torch.equal(changed[:, :place], logits[:, :place])
            assert not torch.equal(changed[:, place], logits[:, place])
