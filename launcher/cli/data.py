"""``odeformer data``: text into shards, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.runs.failures import RunFailedError
from launcher import preflight
from launcher.cli.options import AsJson

if TYPE_CHECKING:
    from data.building.sources import TextSource

data_app = typer.Typer(help="Text into WebDataset shards.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder made by data build.")]


@data_app.command("build")
def data_build(
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="A file or folder (.txt .md .rst .py .jsonl .parquet .tar, .gz, .zst), an address (s3://, "
            "https://), or hf:NAME of a Hugging Face data set; may be repeated.",
        ),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[SOURCE]...", help="More of them.")] = None,
    sources: Annotated[
        Path | None, typer.Option(help="A YAML file of sources, each with path, weight, field, licence.")
    ] = None,
    vocabulary_size: Annotated[int, typer.Option(help="Tokens of the byte-level BPE, at least 257.")] = 2048,
    sequence_length: Annotated[int, typer.Option(help="Tokens per sequence.")] = 256,
    held_out: Annotated[float, typer.Option(help="The part of the documents kept for validation.")] = 0.05,
    min_bytes: Annotated[int | None, typer.Option(help="Leave out documents of fewer bytes.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Leave out documents of more bytes.")] = None,
    quality: Annotated[
        bool, typer.Option("--quality", help="Leave out what does not look like prose (docs/data.md).")
    ] = False,
    near_duplicates: Annotated[
        float | None,
        typer.Option(metavar="SIMILARITY", help="Keep one of documents this similar, 0.5 to 0.95, as 0.8."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the documents.")] = 0,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json to use instead of training one.")
    ] = None,
    end_of_text: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Its token that ends a text, where it is not plain.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Ray workers; 1 builds in this process. By the size if not given."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; a private one when not given.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the folder if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build shards. Example: odeformer data build --text book.txt --out shards"""
    from launcher.configuration.load import load_sources
    from launcher.data_build import build_shards, filters_table, shards_content, sources_table
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    given: list[TextSource | Path | str] = [
        *(load_sources(sources) if sources else []),
        *(text or []),
        *(more or []),
    ]
    preflight.at_sources(given)
    progress = Progress(make_console(as_json))
    manifest = build_shards(
        given,
        out,
        workers=workers,
        address=address,
        progress=progress,
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
    if as_json:
        print(json.dumps(shards_content(manifest), indent=2))
        return
    progress.console.print(sources_table(manifest))
    if manifest.filters:
        progress.console.print(filters_table(manifest))
    for name, split in manifest.splits.items():
        progress.console.print(
            f"  {name}: {split.documents:,} documents, {split.bytes:,} bytes, {split.tokens:,} tokens, "
            f"{split.sequences:,} sequences of {manifest.sequence_length}",
            highlight=False,
            soft_wrap=True,
        )


@data_app.command("verify")
def data_verify(
    folder: Folder,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, not only the sizes.")] = False,
) -> None:
    """Compare shards with their manifest. Example: odeformer data verify shards --deep"""
    preflight.at_shards(str(folder))
    from data.verify import verify
    from launcher.terminal.console import make_console
    from launcher.terminal.progress import Progress

    progress = Progress(make_console())
    with progress.stage(f"{'every byte' if deep else 'the sizes'} of {folder}"):
        problems = verify(folder, deep, progress.update)
    for problem in problems:
        progress.console.print(f"  {problem}", highlight=False, markup=False, soft_wrap=True)
    if problems:
        raise RunFailedError(f"{folder} is damaged, {len(problems)} problem(s): copy or build it again")
    progress.console.print("  whole")


@data_app.command("inspect")
def data_inspect(
    folder: Folder,
    sample: Annotated[int, typer.Option(min=0, help="The training sequence to show as text.")] = 0,
    png: Annotated[
        Path | None, typer.Option(help="The histogram to write; beside the folder when not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What is in a folder of shards. Example: odeformer data inspect shards --sample 7"""
    preflight.at_shards(str(folder))
    if as_json:
        from data.manifest import load_manifest
        from launcher.data_build import shards_content

        print(json.dumps(shards_content(load_manifest(folder)), indent=2))
        return
    from launcher.tables.shards import inspect_shards
    from launcher.terminal.console import make_console

    inspect_shards(folder, sample, png or folder.with_name(f"{folder.name}-lengths.png"), make_console())
