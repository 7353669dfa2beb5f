"""The commands ``odeformer data``: build, verify and inspect shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from cluster.runs.failures import RunFailedError
from launcher import preflight
from launcher.cli.options import AsJson
from launcher.cli.output import make_progress, say, show

if TYPE_CHECKING:
    from data.building.sources import TextSource

data_app = typer.Typer(help="Turn text into WebDataset shards, and check them.", no_args_is_help=True)

Folder = Annotated[Path, Argument(metavar="DIR", help="Folder written by data build.")]


@data_app.command("build")
def data_build(
    out: Annotated[Path, Option(help="Folder to write to.")],
    text: Annotated[
        list[str] | None,
        Option(
            metavar="SOURCE",
            help="A file or folder (.txt .md .rst .py .jsonl .parquet .tar, .gz, .zst), a URL (s3://, "
            "https://), or hf:NAME for a Hugging Face dataset; may be repeated.",
        ),
    ] = None,
    more: Annotated[
        list[str] | None, Argument(metavar="[SOURCE]...", help="More sources, as with --text.")
    ] = None,
    sources: Annotated[
        Path | None, Option(help="YAML file that lists sources: path, weight, field, licence.")
    ] = None,
    vocabulary_size: Annotated[
        int, Option(help="Vocabulary size of the BPE tokenizer to train, at least 257.")
    ] = 2048,
    sequence_length: Annotated[int, Option(help="Tokens per sequence.")] = 256,
    held_out: Annotated[float, Option(help="Fraction of documents held out for validation.")] = 0.05,
    min_bytes: Annotated[int | None, Option(help="Drop documents with fewer bytes.")] = None,
    max_bytes: Annotated[int | None, Option(help="Drop documents with more bytes.")] = None,
    quality: Annotated[
        bool, Option("--quality", help="Drop documents that do not look like prose (MassiveText rules).")
    ] = False,
    near_duplicates: Annotated[
        float | None, Option(help="Drop near duplicates above this similarity, 0.5 to 0.95; off by default.")
    ] = None,
    seed: Annotated[int, Option(help="Random seed of the document order.")] = 0,
    tokenizer: Annotated[Path | None, Option(help="Use this tokenizer.json instead of training one.")] = None,
    end_of_text: Annotated[
        str | None, Option(help="The tokenizer's end-of-text token, if it cannot be detected.")
    ] = None,
    workers: Annotated[
        int | None, Option(min=1, help="Number of Ray workers, 1 for none; chosen by input size by default.")
    ] = None,
    address: Annotated[str | None, Option(help="Running Ray cluster; a temporary one by default.")] = None,
    overwrite: Annotated[bool, Option(help="Replace the output folder if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build shards from text.

    Example: odeformer data build --text book.txt --out shards
    """
    from launcher.configuration.load import load_sources

    inputs: list[TextSource | Path | str] = [
        *(load_sources(sources) if sources else []),
        *(text or []),
        *(more or []),
    ]
    preflight.at_sources(inputs)
    from launcher.data_build import build_shards

    manifest = build_shards(
        inputs,
        out,
        workers=workers,
        address=address,
        progress=make_progress(as_json),
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        held_out=held_out,
        seed=seed,
        min_bytes=min_bytes,
        max_bytes=max_bytes,
        quality=quality,
        near_duplicates=near_duplicates,
        tokenizer=tokenizer,
        end_of_text=end_of_text,
        overwrite=overwrite,
    )
    from launcher.tables.shards import build_report, shards_content

    show(build_report(manifest), shards_content(manifest), as_json)


@data_app.command("verify")
def data_verify(
    folder: Folder,
    deep: Annotated[bool, Option("--deep", help="Check every byte, not only file sizes.")] = False,
) -> None:
    """Check shards against their manifest.

    Example: odeformer data verify shards --deep
    """
    preflight.at_shards(str(folder))
    from data.verify import verify

    progress = make_progress()
    with progress.stage(f"checking {'every byte' if deep else 'the sizes'} of {folder}"):
        problems = verify(folder, deep, progress.update)
    if problems:
        say(*(f"  {problem}" for problem in problems))
        raise RunFailedError(f"{folder} is damaged, {len(problems)} problem(s): copy or build it again")
    say("  no damage found")


@data_app.command("inspect")
def data_inspect(
    folder: Folder,
    sample: Annotated[int, Option(min=0, help="Index of the training sequence to show as text.")] = 0,
    png: Annotated[
        Path | None, Option(help="File for a histogram of document lengths; DIR-lengths.png by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the contents of shards.

    Example: odeformer data inspect shards --sample 7
    """
    preflight.at_shards(str(folder))
    from data.manifest import load_manifest
    from launcher.tables.shards import inspection, shards_content

    manifest = load_manifest(folder)
    png = png or folder.with_name(f"{folder.name}-lengths.png")
    shown = [] if as_json else inspection(folder, manifest, sample, png)
    show(shown, shards_content(manifest), as_json)
