"""A version as MLflow runs it: text continued at a depth of the caller's choice.

MLflow executes this file where a version is loaded; beside it lie the package ``odeformer`` and the version's
own files. An adapter's base is fetched from the registry, and must be the one that it was made for.
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
"""Of a request: tokens to add to a prompt, and its depth as a multiple of the model's own."""


class TextModel(PythonModel):
    """Continues prompts."""

    def load_context(self, context: Any) -> None:
        """Load the version that MLflow has laid out in a folder."""
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
            params: ``max_new_tokens``; ``depth``, N, the model's own when 0; ``temperature``, 0 for the most
                likely token each time; ``seed``, of the first row, the next one's is one more.

        Returns:
            A table with the column ``text``, without the prompts.
        """
        from odeformer_tokenizer import end_of_text_id

        from odeformer.inference.generate import generate
        from odeformer.inference.sampling import Sampling

        given = {"max_new_tokens": 64, "depth": 0, "temperature": 0.8, "seed": 0, **(params or {})}
        prompts = [str(prompt) for prompt in model_input["prompt"]]
        if not all(prompts):
            raise ValueError("a prompt is empty: at least one character is needed")
        most, own = given["max_new_tokens"], self._model.config.depth
        if not 0 < most <= MOST_TOKENS:
            raise ValueError(f"max_new_tokens {most} is not in 1 … {MOST_TOKENS:,}")
        if not 0 <= given["depth"] <= DEEPEST * own:
            raise ValueError(f"depth {given['depth']} is not in 1 … {DEEPEST * own}, nor 0 for {own}")
        texts: list[list[int]] = [[] for _ in prompts]
        for drawn in generate(
            self._at(given["depth"] or own),
            [self._tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts],
            max_new_tokens=most,
            sampling=Sampling(given["temperature"], 50, 1.0),
            seed=given["seed"],
            stop_id=end_of_text_id(self._tokenizer),
        ):
            for text, token in zip(texts, drawn, strict=True):
                if token is not None:
                    text.append(token)
        return pd.DataFrame({"text": [self._tokenizer.decode(text) for text in texts]})

    def _at_depth(self, depth: int) -> FixedDepthModel:
        from odeformer.inference.decoding import FixedDepthModel

        return FixedDepthModel(self._model, depth)


def _base(adapter: Path) -> Path:
    """The files of the model that an adapter was made for; :func:`odeformer.load` compares their digest."""
    import mlflow

    from odeformer.untrusted import check_folder

    base = json.loads((adapter / "adapter.json").read_text(encoding="utf-8"))["base"]
    version = mlflow.MlflowClient().get_model_version(base["name"], base["version"])
    files = f"{version.source}/{version.tags['odeformer.files']}"
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=files))
    check_folder(folder)
    return folder


set_model(TextModel())
