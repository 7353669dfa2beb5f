import pytest
import torch
from tiny_models import VOCABULARY, attach_adapter, cell_scales, config, gradients, ids, loss, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from odeformer.config import AdapterConfig
from odeformer.lora import Adapter
from odeformer.model import Odeformer


def as_transformers_llama(model: Odeformer, depth: int) -> LlamaForCausalLM:
    """The library's Llama with the model's weights at ``depth``, h·D folded into the output projections."""
    shape = model.config
    library = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.width,
            intermediate_size=shape.hidden_width,
            num_hidden_layers=depth,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.groups,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
    )
    state = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.final_norm.weight,
    }
    weights = model.depth_weights(depth)
    rows = [shape.heads * shape.head_width, shape.groups * shape.head_width, shape.groups * shape.head_width]
    for i, scale in enumerate(cell_scales(model, depth)):
        query, key, value = weights["qkv_weight"][i].split(rows)
        layer = {
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.o_proj": scale * weights["out_weight"][i],
            "mlp.gate_proj": weights["gate_weight"][i],
            "mlp.up_proj": weights["up_weight"][i],
            "mlp.down_proj": scale * weights["down_weight"][i],
            "input_layernorm": weights["attention_norm_weight"][i],
            "post_attention_layernorm": weights["feed_forward_norm_weight"][i],
        }
        state |= {f"model.layers.{i}.{name}.weight": tensor for name, tensor in layer.items()}
    missing, unexpected = library.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    return library.eval()


@pytest.mark.parametrize("key_value_heads", [4, 2, 1])
@pytest.mark.parametrize("depth", [2, 4, 8])
def test_llama_by_lie_trotter_is_transformers_llama(key_value_heads: int, depth: int) -> None:
    model = tiny_model(
        flavour="llama", heads=4, key_value_heads=key_value_heads, rotary_fraction=None, width=32
    )
    assert model.solver == "lie_trotter"
    with torch.no_grad():
        ours = model(ids(), depth=depth).logits
        theirs = as_transformers_llama(model, depth)(ids()).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * float(theirs.std() + 1))


def test_llama_adapts_its_gate_and_neox_has_none() -> None:
    shape = config(flavour="llama", rotary_fraction=None)
    adapter = Adapter(AdapterConfig(targets=("gate",)), shape)
    assert adapter.gate_lora_b.shape == (2, 64, 8)
    with pytest.raises(ValueError, match="targets: 'gate' is not a projection of flavour 'neox'"):
        Adapter(AdapterConfig(targets=("gate",)), config())


def test_an_adapter_changes_llama_and_fresh_changes_nothing() -> None:
    model = tiny_model(flavour="llama", rotary_fraction=None)
    before = model(ids()).logits
    attach_adapter(model, trained=False)
    assert torch.equal(model(ids()).logits, before)
    attach_adapter(model)
    assert not torch.allclose(model(ids()).logits, before)


def test_paper_has_dropout_in_training_only_and_the_same_when_recomputed() -> None:
    model = tiny_model(flavour="paper", rotary_fraction=None).train()
    assert not torch.equal(model(ids()).logits, model(ids()).logits)
    both = []
    for method in ("direct", "checkpoint"):
        torch.manual_seed(1)
        both.append(gradients(model, method))
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    model.eval()
    assert torch.equal(model(ids()).logits, model(ids()).logits)


def test_paper_knows_positions_only_by_its_embedding() -> None:
    model = tiny_model(flavour="paper", rotary_fraction=None).eval()
    same = torch.full((1, 6), 3)
    assert model.positions is not None
    with torch.no_grad():
        assert not torch.allclose(model(same).logits[0, 1], model(same).logits[0, 4])
        model.positions.weight.copy_(model.positions.weight[:1].expand_as(model.positions.weight))
        torch.testing.assert_close(model(same).logits[0, 1], model(same).logits[0, 4])


@pytest.mark.parametrize("flavour", ["llama", "paper"])
@pytest.mark.parametrize("kind", ["smooth_mlp", "linear", "fourier_mlp"])
def test_every_flavour_and_basis_runs_and_learns_at_every_depth(flavour: str, kind: str) -> None:
    torch.manual_seed(0)
    model = Odeformer(config(kind, 3, flavour=flavour, rotary_fraction=None))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    before = {depth: loss(model.eval(), depth).item() for depth in (2, 4, 8)}
    for depth in (2, 4, 8) * 10:
        model.train()
        optimizer.zero_grad()
        loss(model, depth).backward()
        optimizer.step()
    for depth, start in before.items():
        assert loss(model.eval(), depth).item() < start - 0.5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"flavour": "llama", "heads": 4, "key_value_heads": 3, "rotary_fraction": None},
            "key_value_heads 3",
        ),
        ({"key_value_heads": 1}, "key_value_heads is for flavour llama"),
        ({"dropout": 0.1}, "dropout is for flavour paper"),
        ({"flavour": "paper"}, "rotary_fraction is for flavour neox and llama"),
        ({"flavour": "gpt"}, "flavour"),
    ],
)
def test_settings_of_another_flavour_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        config(**changes)
