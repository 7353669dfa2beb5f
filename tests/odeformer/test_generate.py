import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, VOCABULARY, attach_adapter, config, ids, shake, tiny_model
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel

from data.tokenizer import END_OF_TEXT, train_tokenizer
from odeformer.inference.decoding import FixedDepthModel
from odeformer.inference.generate import ContinuedText, continuation, generate, generate_text
from odeformer.inference.sampling import Sampling
from odeformer.model import Odeformer, SolveOptions

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


def write(
    model: Odeformer,
    prompt_ids: list[int],
    *,
    depth: int | None = None,
    temperature: float = 0.8,
    top_k: int = 50,
    **settings: Any,
) -> Iterator[int]:
    """The tokens behind one prompt."""
    at, sampling = FixedDepthModel(model, depth), Sampling(temperature, top_k)
    steps = generate(at, [prompt_ids], sampling=sampling, **settings)
    return (token for [token] in steps if token is not None)


def write_text(
    model: Odeformer,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    depth: int | None = None,
    temperature: float = 0.8,
    top_k: int = 50,
    **settings: Any,
) -> Iterator[str]:
    at, sampling = FixedDepthModel(model, depth), Sampling(temperature, top_k)
    return generate_text(at, tokenizer, prompt, sampling=sampling, **settings)


def greedy_reference(model: Odeformer, prompt: list[int], count: int, depth: int) -> list[int]:
    """The most likely token of a whole forward pass over all that is remembered, again and again."""
    tokens = list(prompt)
    window = tokens[-CONTEXT:]
    for _ in range(count):
        if len(window) > CONTEXT:
            window = window[-CONTEXT // 2 :]
        with torch.no_grad():
            logits = model(torch.tensor([window]), depth=depth).logits
        tokens.append(int(logits[0, -1].argmax()))
        window = [*window, tokens[-1]]
    return tokens[len(prompt) :]


@pytest.mark.parametrize("depth", [2, 4, 9])
@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_temperature_zero_takes_the_most_likely_token(solver: str, depth: int) -> None:
    torch.manual_seed(0)
    model = tiny_model(tie_embeddings=False, prelude=0).eval()
    model.options = SolveOptions(solver)
    attach_adapter(model, rank=2)
    torch.nn.init.zeros_(model.final_norm.bias)  # it would say the same word for ever
    torch.nn.init.normal_(model.embedding.weight, std=3.0)
    # 20 new tokens behind 5 pass the context of 16: the older half must then be forgotten.
    expected = greedy_reference(model, PROMPT, 20, depth)
    assert len(set(expected)) > 1
    assert list(write(model, PROMPT, depth=depth, max_new_tokens=20, temperature=0)) == expected
    assert list(write(model, PROMPT, depth=depth, max_new_tokens=20, top_k=1)) == expected


def test_a_long_prompt_keeps_its_end() -> None:
    model = tiny_model().eval()
    end = ids(batch=1, length=CONTEXT)[0].tolist()
    beginnings = ([], [1, 2, 3], ids(batch=1, length=40, seed=5)[0].tolist())
    texts = [list(write(model, start + end, max_new_tokens=6)) for start in beginnings]
    assert texts[0] == texts[1] == texts[2]


def test_the_seed_decides_the_text() -> None:
    model = tiny_model().eval()
    texts = {seed: list(write(model, PROMPT, seed=seed, temperature=1.0)) for seed in range(5)}
    torch.manual_seed(99)  # the global generator has no part in it
    for seed, text in texts.items():
        assert list(write(model, PROMPT, seed=seed, temperature=1.0)) == text
    assert len({tuple(text) for text in texts.values()}) == 5


def test_generating_leaves_the_global_generator_and_the_prompt_alone() -> None:
    model, prompt = tiny_model().eval(), list(PROMPT)
    before = torch.get_rng_state()
    list(write(model, prompt, max_new_tokens=4))
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
        drawn = write(model, PROMPT, max_new_tokens=1, temperature=temperature, top_k=5, seed=seed)
        counts[next(drawn)] += 1
    assert counts.sum() == counts[best.indices].sum() == draws  # nothing outside the best five
    deviation = (draws * expected * (1 - expected)).sqrt()
    assert ((counts[best.indices] - draws * expected).abs() < 4 * deviation + 1).all()


def test_stops_at_the_stop_token_without_yielding_it() -> None:
    model = tiny_model().eval()
    text = list(write(model, PROMPT, max_new_tokens=30, seed=1, temperature=1.0))
    stop = text[7]
    first = text.index(stop)
    stopped = write(model, PROMPT, max_new_tokens=30, seed=1, temperature=1.0, stop_id=stop)
    assert list(stopped) == text[:first]


@pytest.mark.parametrize("count", [0, 1, 13])
def test_yields_as_many_tokens_as_asked_for(count: int) -> None:
    assert len(list(write(tiny_model().eval(), PROMPT, max_new_tokens=count))) == count


def test_tokens_come_one_at_a_time() -> None:
    model = tiny_model().eval()
    whole = list(write(model, PROMPT, max_new_tokens=8))
    endless = write(model, PROMPT, max_new_tokens=10**9)
    assert list(islice(endless, 8)) == whole


def test_the_caller_can_train_between_two_tokens() -> None:
    """Inference mode must not leak out of the generator."""
    model = tiny_model()
    text = write(model, PROMPT, max_new_tokens=2)
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
        list(write(tiny_model(), **{"prompt_ids": PROMPT, **arguments}))


@pytest.mark.parametrize("seed", range(4))
def test_streamed_pieces_join_to_the_decoded_text(
    seed: int, speaker: Odeformer, tokenizer: Tokenizer
) -> None:
    """Random bytes: whole characters, broken ones, and one cut off at the end."""
    prompt, settings = "to be 🙂", {"max_new_tokens": 60, "temperature": 1.5, "top_k": 280, "seed": seed}
    drawn = list(write(speaker, tokenizer.encode(prompt).ids, **settings))
    pieces = list(write_text(speaker, tokenizer, prompt, **settings))
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
    pieces = list(write_text(speaker, tokenizer, ":", depth=2, max_new_tokens=len(tokens) - 1, temperature=0))
    assert "".join(pieces) == sentence
    assert all("\ufffd" not in piece for piece in pieces)
    assert {"🙂", "多", "🦆"} <= set("".join(pieces))
    assert len([piece for piece in pieces if piece]) > 5


def test_text_stops_at_the_stop_token(speaker: Odeformer, tokenizer: Tokenizer) -> None:
    prompt, settings = "be", {"max_new_tokens": 40, "temperature": 1.0, "seed": 2}
    drawn = list(write(speaker, tokenizer.encode(prompt).ids, **settings))
    stop = drawn[12]
    text = "".join(write_text(speaker, tokenizer, prompt, stop_id=stop, **settings))
    assert text == tokenizer.decode(drawn[: drawn.index(stop)])


def test_an_empty_prompt_is_refused_as_text_too(speaker: Odeformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        list(write_text(speaker, tokenizer, ""))


def test_a_special_token_written_in_the_prompt_is_only_letters(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id(END_OF_TEXT) not in tokenizer.encode(END_OF_TEXT).ids


def test_rows_of_a_batch_are_what_each_prompt_gives_alone() -> None:
    """Prompts of unequal length, beyond the context's end, one of which stops early."""
    model = tiny_model().eval()
    at, prompts = FixedDepthModel(model, 6), [PROMPT, [7], ids(batch=1, length=14)[0].tolist()]
    settings: dict[str, Any] = {"max_new_tokens": 12, "sampling": Sampling(temperature=1.0)}
    alone = [
        list(write(model, p, depth=6, temperature=1.0, max_new_tokens=12, seed=i))
        for i, p in enumerate(prompts)
    ]
    together = list(zip(*generate(at, prompts, **settings), strict=True))
    assert [list(row) for row in together] == alone
    stop = alone[1][4]
    stopped = list(zip(*generate(at, prompts, stop_id=stop, **settings), strict=True))
    for row, text in zip(stopped, alone, strict=True):
        kept = text[: text.index(stop)] if stop in text else text
        assert [token for token in row if token is not None] == kept[: len(row)]


@pytest.mark.parametrize(
    ("texts", "stops", "expected"),
    [
        (["ab", "c", "d"], [], "abcd"),
        (["ab", "c", "d"], ["bc"], "a"),
        (["ab", "c", "d"], ["d", "cd"], "ab"),
        (["a", "a", "ab", "x"], ["aab"], "a"),
        (["xx", "en", "e", "end", "y"], ["end"], "xxene"),
        (["stop"], ["stop"], ""),
        (["sto", "ry"], ["stop"], "story"),
        (["a", "st"], ["stop"], "ast"),
    ],
)
def test_stop_strings_end_the_text_wherever_they_begin(
    texts: list[str], stops: list[str], expected: str
) -> None:
    tokens = list(dict.fromkeys(texts))
    pieces = Tokenizer(WordLevel({token: number for number, token in enumerate(tokens)}, tokens[0]))
    pieces.decoder = Fuse()
    continued, said = ContinuedText(pieces, [], stops), ""
    for text in texts:
        said += continued.add(tokens.index(text))
        assert not any(stop in said for stop in stops)
        if continued.stopped:
            break
    else:
        said += continued.rest()
    assert said == expected


def test_pieces_are_what_decoding_everything_at_once_gives(tokenizer: Tokenizer) -> None:
    dice = random.Random(0)
    for _ in range(30):
        drawn = [dice.randrange(tokenizer.get_vocab_size()) for _ in range(60)]  # many are not whole
        for text in ("Ünïcödé ⇄ 漢字 and more", "plain words after each other"):
            drawn[20:30] = tokenizer.encode(text).ids[:10]
            prompt, tokens = drawn[: dice.randrange(30)], drawn[30:]
            continued = ContinuedText(tokenizer, prompt)
            pieces = [continued.add(token) for token in tokens]
            assert "".join([*pieces, continued.rest()]) == continuation(tokenizer, prompt, tokens)


def test_an_empty_stop_string_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="stop string is empty"):
        ContinuedText(tokenizer, [], [""])


def test_text_stops_before_a_stop_string(speaker: Odeformer, tokenizer: Tokenizer) -> None:
    whole = "".join(write_text(speaker, tokenizer, "to be", seed=3, temperature=1.0))
    stop = whole[20:23]
    assert (
        "".join(write_text(speaker, tokenizer, "to be", seed=3, temperature=1.0, stop=["never said", stop]))
        == (whole[: whole.index(stop)])
    )
