"""What a build leaves out by length and quality, and that the report counts all of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_builds import contents, made_up, write_texts

from data.building.filters import QUALITY, broken_rule, rule_names
from data.corpus import Document, is_held_out
from data.manifest import FILE_NAME, Filters, Manifest, load_manifest

Build = Callable[..., Manifest]

PROSE = "It was a bright cold day in April, and the clocks were striking thirteen.\n"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

# Just within each limit, and just beyond it. All words of ten are different, so nothing is repeated.
EDGES = {
    # Mean lengths of 3 and of 29/10; of 10 and of 101/10.
    "word_length": [
        (" ".join(f"a{i:02d}" for i in range(10)), " ".join(["b1", *(f"a{i:02d}" for i in range(9))])),
        (
            " ".join(f"abcdefgh{i:02d}" for i in range(10)),
            " ".join(["abcdefghi00", *(f"abcdefgh{i:02d}" for i in range(1, 10))]),
        ),
    ],
    # 8 and 7 of ten words with a letter; a letter need not be Latin.
    "letters": [
        (" ".join([*WORDS[:8], "1234", "5,67"]), " ".join([*WORDS[:7], "1234", "5,67", "890.1"])),
        (
            "мир труд май день ночь утро вечер год 1234 5678",
            "мир труд май день ночь утро вечер 1234 5678 2345",
        ),
    ],
    # One and two for ten words, of each kind.
    "symbols": [
        (" ".join([*WORDS[:9], "#ten"]), " ".join([*WORDS[:8], "#nine", "#ten"])),
        (" ".join([*WORDS[:9], "ten..."]), " ".join([*WORDS[:8], "nine…", "ten..."])),
    ],
    # 3 and 4 of ten lines stand further up; white space around them and blank lines do not count.
    "repeated_lines": [
        (
            "\n\n".join([*(f"line {w} is here" for w in WORDS[:7]), *["  line one is here"] * 3]),
            "\n\n".join([*(f"line {w} is here" for w in WORDS[:6]), *["line one is here  "] * 4]),
        )
    ],
    # "alpha beta" twice: 18 characters of 90 and of 89.
    "repeated_phrases": [
        (
            "alpha beta alpha beta " + " ".join([c * 8 for c in "cdefghijk"]),
            "alpha beta alpha beta " + " ".join([*(c * 8 for c in "cdefghij"), "kkkkkkk"]),
        ),
    ],
}


@pytest.mark.parametrize(
    ("rule", "kept", "left_out"), [(rule, *pair) for rule, pairs in EDGES.items() for pair in pairs]
)
def test_each_rule_has_its_published_threshold(rule: str, kept: str, left_out: str) -> None:
    assert not QUALITY[rule](kept, kept.split())
    assert QUALITY[rule](left_out, left_out.split())
    assert broken_rule(Filters(quality=True), left_out, 100) == rule


def test_occurrences_of_a_phrase_that_overlap_count_once() -> None:
    # "ab ab ab": two occurrences by position, but only one without overlap: 4 characters of 21.
    text = "ab ab ab cdefg hijkl mnopq"
    assert QUALITY["repeated_phrases"]("", ["ab", "ab", "ab", "cde", "fgh", "ijk"])  # 4 of 15
    assert not QUALITY["repeated_phrases"](text, text.split())  # 4 of 21


def test_prose_breaks_no_rule_and_a_single_word_can_be_judged() -> None:
    assert broken_rule(Filters(quality=True), PROSE, len(PROSE)) is None
    assert broken_rule(Filters(quality=True), "word", 4) is None
    assert broken_rule(Filters(), "#" * 50, 50) is None


def test_lengths_are_bytes_and_the_limits_are_kept() -> None:
    limits = Filters(min_bytes=4, max_bytes=6)
    assert [broken_rule(limits, "é" * n, 2 * n) for n in (1, 2, 3, 4)] == [
        "min_bytes",
        None,
        None,
        "max_bytes",
    ]
    assert rule_names(Filters(max_bytes=6, quality=True)) == ["max_bytes", *QUALITY]


def test_every_text_is_counted_once_and_the_rest_is_as_if_it_had_never_been(
    small_build: Build, tmp_path: Path
) -> None:
    good = [f"{text} {PROSE}" for text in made_up(100, seed=20)]
    bad = {
        "min_bytes": ["Too short.", "Short."],
        "max_bytes": ["long words follow one another " * 400],
        "letters": [
            "1 2 3 4 5 1234567890 1234567890 " + "0123456789 " * 10,
            *(f"1234 {i:09d} " * 9 for i in range(4)),
        ],
        "repeated_lines": ["This line is said again and again.\n" * 9],
    }
    one = write_texts([*good[:50], *bad["min_bytes"], *bad["letters"], good[0], " "], tmp_path / "one")
    lines = [*good[40:], *bad["max_bytes"], *bad["repeated_lines"], *bad["min_bytes"], ""]
    two = tmp_path / "two.jsonl"
    two.write_text("".join(json.dumps({"text": text}) + "\n" for text in lines))
    manifest = small_build("out", one, two, min_bytes=40, max_bytes=5000, quality=True)
    first, second = manifest.sources
    none = dict.fromkeys(["min_bytes", "max_bytes", *QUALITY], 0)
    assert first.filtered == {**none, "min_bytes": 2, "letters": 5}
    assert second.filtered == {**none, "min_bytes": 2, "max_bytes": 1, "repeated_lines": 1}
    assert manifest.filters == Filters(min_bytes=40, max_bytes=5000, quality=True)
    for source, given in ((first, 50 + 2 + 5 + 2), (second, len(lines))):
        left_out = source.duplicates + source.empty + sum(source.filtered.values())
        assert source.documents + left_out == given
    assert load_manifest(tmp_path / "out") == manifest

    plain = small_build("plain", write_texts(good, tmp_path / "good"))
    assert manifest.splits == plain.splits
    assert sum(is_held_out(Document("", text), 0.2) for text in good) == plain.splits["validation"].documents


def test_without_filters_the_manifest_does_not_mention_them(reference: Path) -> None:
    written = json.loads((reference / FILE_NAME).read_text())
    assert "filters" not in written
    assert not {"filtered", "near_duplicates"} & set(written["sources"][0])


def test_other_filters_do_not_go_on_with_a_build_that_was_stopped(tmp_path: Path, small_build: Build) -> None:
    source = write_texts(
        [f"{'word ' * (i % 7)}{text}" for i, text in enumerate(made_up(90, seed=21))], tmp_path / "a"
    )

    def stop(stage: str, fraction: float) -> None:
        if stage == "encoding":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_build("out", source, progress=stop)
    small_build("out", source, min_bytes=300)
    small_build("fresh", source, min_bytes=300)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_bytes": 0}, "min_bytes is 0: it must be at least 1"),
        ({"max_bytes": 0}, "max_bytes is 0: it must be at least 1"),
        ({"min_bytes": 9, "max_bytes": 8}, "max_bytes is 8: it must be at least 9"),
        ({"min_bytes": 10**9}, r"texts has nothing left: all of its 5 texts broke a rule \(min_bytes\)"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    settings: dict[str, int], message: str, small_build: Build, tmp_path: Path
) -> None:
    source = write_texts(made_up(5, seed=22), tmp_path / "texts")
    with pytest.raises(ValueError, match=message) as error:
        small_build("out", source, **settings)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]
