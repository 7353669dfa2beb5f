"""The MLflow model of a version: it continues texts, at a depth that the caller chooses.

MLflow executes this file when it loads a version; the package ``odeformer`` and the version's files are in
the same folder. An adapter's base is fetched from the registry, and must be the one it belongs to.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

if TYPE_CHECKING:
    from odeformer.inference.decoding import FixedDepthModel

MOST_TOKENS, DEEPEST = 100_000, 16
"""Limits of a request: the new tokens per prompt, and the depth as a multiple of the model depth."""


class TextModel(PythonModel):
    """An MLflow model that continues prompts."""

    def load_context(self, context: Any) -> None:
        """Load the version from the folder where MLflow has put it."""
        from odeformer_tokenizer import load_tokenizer

        import odeformer
        from odeformer.untrusted import check_folder

        folder = Path(context.artifacts["model"])
        check_folder(folder)
        adapter = None
        if (folder / "adapter.json").is_file():
            folder, adapter = _base(folder), folder
        self._model = odeformer.load(folder, adapter)
        self._tokenizer = load_tokenizer(folder)
        self._at = lru_cache(maxsize=4)(self._at_depth)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """The continuation of each prompt.

        Args:
            model_input: a table with the column ``prompt``.
            params: ``max_new_tokens``; ``depth``, N, with 0 for the model depth; ``temperature``, with 0 for
                greedy decoding; ``seed`` of the first row, which grows by one per row.

        Returns:
            A table with the column ``text``, which does not repeat the prompts.
        """
        from odeformer_tokenizer import end_of_text_id

        from odeformer.inference.generate import continuation, generate
        from odeformer.inference.sampling import Sampling

        options = {"max_new_tokens": 64, "depth": 0, "temperature": 0.8, "seed": 0, **(params or {})}
        prompts = [str(prompt) for prompt in model_input["prompt"]]
        if not all(prompts):
            raise ValueError("a prompt is empty: at least one character is needed")
        new_tokens, depth, own = options["max_new_tokens"], options["depth"], self._model.config.depth
        if not 0 < new_tokens <= MOST_TOKENS:
            raise ValueError(f"max_new_tokens {new_tokens} is not in 1 … {MOST_TOKENS:,}")
        if not 0 <= depth <= DEEPEST * own:
            raise ValueError(f"depth {depth} is not in 1 … {DEEPEST * own}, nor 0 for {own}")

        given = [self._tokenizer.encode(prompt).ids for prompt in prompts]
        texts: list[list[int]] = [[] for _ in prompts]
        for drawn in generate(
            self._at(depth or own),
            given,
            max_new_tokens=new_tokens,
            sampling=Sampling(options["temperature"], 50, 1.0),
            seed=options["seed"],
            stop_id=end_of_text_id(self._tokenizer),
        ):
            for text, token in zip(texts, drawn, strict=True):
                if token is not None:
                    text.append(token)
        both = zip(given, texts, strict=True)
        return pd.DataFrame({"text": [continuation(self._tokenizer, ids, text) for ids, text in both]})

    def _at_depth(self, depth: int) -> FixedDepthModel:
        from odeformer.inference.decoding import FixedDepthModel

        return FixedDepthModel(self._model, depth)


def _base(adapter: Path) -> Path:
    """Download the base of an adapter; :func:`odeformer.load` compares its digest."""
    import mlflow

    from odeformer.untrusted import check_folder

    base = json.loads((adapter / "adapter.json").read_text(encoding="utf-8"))["base"]
    version = mlflow.MlflowClient().get_model_version(base["name"], base["version"])
    files = f"{version.source}/{version.tags['odeformer.files']}"  # cluster.tags.FILES: no import of it here
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=files))
    check_folder(folder)
    return folder


set_model(TextModel())
