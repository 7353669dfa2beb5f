"""The experiments that hold evaluations and imports were deleted in MLflow: what was computed is shown."""

from __future__ import annotations

from pathlib import Path

from stored_models import checkpoint_folder, register_model

from cluster.evaluation.evaluate import evaluate
from cluster.tracking import store
from launcher.transfer import export, import_checkpoint


def test_numbers_are_shown_though_mlflow_does_not_take_them(tmp_path: Path, uri: str) -> None:
    (tmp_path / "text.txt").write_text("some text to train on")
    version = register_model(checkpoint_folder(tmp_path), uri, tmp_path)
    client = store.connect(uri)
    for experiment in ("evaluations", "imports"):
        client.delete_experiment(client.create_experiment(experiment))

    evaluation = evaluate(version.uri, None, [2], uri, text=tmp_path / "text.txt")
    assert [score.depth for score in evaluation.text] == [2]
    [remark] = evaluation.content()["remarks"]
    assert remark.startswith(
        "these scores are not in MLflow: the MLflow experiment 'evaluations' was deleted"
    )

    export(version.uri, None, None, False, None, None, tmp_path / "plain", uri)
    imported = import_checkpoint(tmp_path / "plain", tmp_path / "back", 0, tmp_path / "text.txt", "back", uri)
    assert imported.losses
    assert (tmp_path / "back" / "model.safetensors").is_file()
    assert imported.version is None
    assert "experiment 'imports' was deleted: restore it" in str(imported.not_registered)
