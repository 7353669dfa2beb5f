"""Pages of the site that are no files of this folder: what stands elsewhere, and what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from cli_page import cli_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from settings_page import settings_page

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Files of the root, by the pages that they become."""
RESULTS = "benchmarks/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them to the files of the site."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "reference/cli.md", content=cli_page()))
    files.append(File.generated(config, "reference/settings.md", content=settings_page()))
    for result in sorted([*(ROOT / RESULTS).glob("*.json"), *(ROOT / RESULTS).glob("*.png")]):
        files.append(File.generated(config, f"results/{result.name}", abs_src_path=str(result)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links between files of the repository lead to the pages that they have become."""
    del page, config, files
    markdown = re.sub(rf"\]\((?:\.\./)?{RESULTS}/", "](results/", markdown)
    for name, source in ELSEWHERE.items():
        markdown = re.sub(rf"\]\((?:\.\./)?{re.escape(source)}", f"]({name}", markdown)
    return re.sub(r"\]\(docs/", "](", markdown)
