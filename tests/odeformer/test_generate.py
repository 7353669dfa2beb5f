from itertools import islice

import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, attach_adapter, config, ids, shake, tiny_model
from tokenizers import Tokenizer

from data.tokenizer import END_OF_TEXT, train_tokenizer
from odeformer.generate import generate, generate_text
from odeformer.model import Odeformer

PROMPT = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "to be or not to be: naïve café 🙂 多言語 " * 3
    return train_tokenizer([text], 280)


@pytest.fixture
def speaker(tokenizer: Tokenizer) -> Odeformer:
    """A model that knows the tokenizer's ids, most of which are single bytes."""
    shape = config(
        width=32, vocabulary_size=tokenizer.get_vocab_size(), context_length=64, tie_embeddings=False
    )
    model = Odeformer(shape).eval()
    shake(model)
    return model


def greedy_reference(model: Odeformer, prompt: list[int], count: int, depth: int) -> list[int]:
    """The most likely token of a whole forward pass over the last tokens, again and again."""
    tokens = list(prompt)
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([tokens[-CONTEXT:]]), depth=depth).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("depth", [2, 4, 9])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_temperature_zero_takes_the_most_likely_token(solver: str, depth: int) -> None:
    torch.manual_seed(0)
    model = tiny_model(tie_embeddings=False, prelude=0).eval()
    model.solver = solver
    attach_adapter(model, rank=2)
    torch.nn.init.zeros_(model.final_norm.bias)  # it would say the same word for ever
    torch.nn.init.normal_(model.embedding.weight, std=3.0)
    # 20 new tokens behind 5 pass the context of 16: the window must then slide.
    expected = greedy_reference(model, PROMPT, 20, depth)
    assert len(set(expected)) > 2
    assert list(generate(model, PROMPT, depth=depth, max_new_tokens=20, temperature=0)) == expected
    assert list(generate(model, PROMPT, depth=depth, max_new_tokens=20, top_k=1)) == expected


def test_a_long_prompt_keeps_its_end() -> None:
    model = tiny_model().eval()
    end = ids(batch=1, time=CONTEXT)[0].tolist()
    beginnings = ([], [1, 2, 3], ids(batch=1, time=40, seed=5)[0].tolist())
    texts = [list(generate(model, start + end, max_new_tokens=6)) for start in beginnings]
    assert texts[0] == texts[1] == texts[2]


def test_the_seed_decides_the_text() -> None:
    model = tiny_model().eval()
    texts = {seed: list(generate(model, PROMPT, seed=seed, temperature=1.0)) for seed in range(5)}
    torch.manual_seed(99)  # the global generator has no part in it
    for seed, text in texts.items():
        assert list(generate(model, PROMPT, seed=seed, temperature=1.0)) == text
    assert len({tuple(text) for text in texts.values()}) == 5


def test_generating_leaves_the_global_generator_and_the_prompt_alone() -> None:
    model, prompt = tiny_model().eval(), list(PROMPT)
    before = torch.get_rng_state()
    list(generate(model, prompt, max_new_tokens=4))
    assert torch.equal(torch.get_rng_state(), before)
    assert prompt == PROMPT


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_draws_follow_the_models_probabilities(temperature: float) -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        spread = model(torch.tensor([PROMPT])).logits[0, -1].topk(5).values.std()
        for parameter in model.final_norm.parameters():
            parameter.div_(spread)  # probabilities far from uniform
        logits = model(torch.tensor([PROMPT])).logits[0, -1]
    best = logits.topk(5)
    expected = torch.softmax(best.values / temperature, dim=0)
    assert (expected - torch.softmax(best.values * temperature, dim=0)).abs().max() > 0.15
    draws = 600
    counts = torch.zeros(VOCABULARY)
    for seed in range(draws):
        drawn = generate(model, PROMPT, max_new_tokens=1, temperature=temperature, top_k=5, seed=seed)
        counts[next(drawn)] += 1
    assert counts.sum() == counts[best.indices].sum() == draws  # nothing outside the best five
    deviation = (draws * expected * (1 - expected)).sqrt()
    assert ((counts[best.indices] - draws * expected).abs() < 4 * deviation + 1).all()


def test_stops_at_the_stop_token_without_yielding_it() -> None:
    model = tiny_model().eval()
    text = list(generate(model, PROMPT, max_new_tokens=30, seed=1, temperature=1.0))
    stop = text[7]
    first = text.index(stop)
    stopped = generate(model, PROMPT, max_new_tokens=30, seed=1, temperature=1.0, stop_id=stop)
    assert list(stopped) == text[:first]


@pytest.mark.parametrize("count", [0, 1, 13])
def test_yields_as_many_tokens_as_asked_for(count: int) -> None:
    assert len(list(generate(tiny_model().eval(), PROMPT, max_new_tokens=count))) == count


def test_tokens_come_one_at_a_time() -> None:
    model = tiny_model().eval()
    whole = list(generate(model, PROMPT, max_new_tokens=8))
    endless = generate(model, PROMPT, max_new_tokens=10**9)
    assert list(islice(endless, 8)) == whole


def test_the_caller_can_train_between_two_tokens() -> None:
    """Inference mode must not leak out of the generator."""
    model = tiny_model()
    text = generate(model, PROMPT, max_new_tokens=2)
    next(text)
    assert not torch.is_inference_mode_enabled()
    model(ids()).logits.sum().backward()
    assert model.embedding.weight.grad is not None
    next(text)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt_ids": []}, "prompt is empty"),
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"top_k": 0}, "top_k 0"),
        ({"depth": 0}, "depth 0"),
        ({"prompt_ids": [VOCABULARY]}, "vocabulary_size"),
        ({"prompt_ids": [-1]}, "vocabulary_size"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        list(generate(tiny_model(), **{"prompt_ids": PROMPT, **arguments}))


@pytest.mark.parametrize("seed", range(4))
def test_streamed_pieces_join_to_the_decoded_text(
    seed: int, speaker: Odeformer, tokenizer: Tokenizer
) -> None:
    """Random bytes: whole characters, broken ones, and one cut off at the end."""
    prompt, settings = "to be 🙂", {"max_new_tokens": 60, "temperature": 1.5, "top_k": 280, "seed": seed}
    drawn = list(generate(speaker, tokenizer.encode(prompt).ids, **settings))
    pieces = list(generate_text(speaker, tokenizer, prompt, **settings))
    assert "".join(pieces) == tokenizer.decode(drawn)
    assert len([piece for piece in pieces if piece]) > 20


def test_a_character_of_several_tokens_is_yielded_whole(speaker: Odeformer, tokenizer: Tokenizer) -> None:
    """A model taught to say one sentence says it in pieces, none of which is half a character."""
    sentence = "é🙂多 ünd 語🦆!"
    tokens = tokenizer.encode(":" + sentence).ids
    assert len(tokens) > len(sentence) + 5
    sequence = torch.tensor([tokens])
    optimizer = torch.optim.Adam(speaker.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        scores = speaker(sequence[:, :-1], depth=2).logits
        torch.nn.functional.cross_entropy(scores[0], sequence[0, 1:]).backward()
        optimizer.step()
    pieces = list(
        generate_text(speaker, tokenizer, ":", depth=2, max_new_tokens=len(tokens) - 1, temperature=0)
    )
    assert "".join(pieces) == sentence
    assert all("\ufffd" not in piece for piece in pieces)
    assert {"🙂", "多", "🦆"} <= set("".join(pieces))
    assert len([piece for piece in pieces if piece]) > 5


def test_text_stops_at_the_stop_token(speaker: Odeformer, tokenizer: Tokenizer) -> None:
    prompt, settings = "be", {"max_new_tokens": 40, "temperature": 1.0, "seed": 2}
    drawn = list(generate(speaker, tokenizer.encode(prompt).ids, **settings))
    stop = drawn[12]
    text = "".join(generate_text(speaker, tokenizer, prompt, stop_id=stop, **settings))
    assert text == tokenizer.decode(drawn[: drawn.index(stop)])


def test_an_empty_prompt_is_refused_as_text_too(speaker: Odeformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        list(generate_text(speaker, tokenizer, ""))


def test_a_special_token_written_in_the_prompt_is_only_letters(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id(END_OF_TEXT) not in tokenizer.encode(END_OF_TEXT).ids
