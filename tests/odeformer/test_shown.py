"""Texts of others: control characters can be seen, passwords cannot."""

import pytest

from odeformer.files.shown import masked, masked_values, visible, without_user


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@host/a", "https://***@host/a"),
        ("https://token@host:5000", "https://***@host:5000"),
        ("postgresql+psycopg://u:p%40w@db:5432/mlflow", "postgresql+psycopg://***@db:5432/mlflow"),
        ("postgresql://u:se/cr?et#@db/mlflow", "postgresql://***@db/mlflow"),
        ("http://u:a@b@host/x", "http://***@host/x"),
        ("the store http://u:p@host/x failed: a@b", "the store http://***@host/x failed: a@b"),
        ("s3://b/k?X-Amz-Credential=AK&X-Amz-Date=1&X-Amz-Signature=ab12", None),
        (
            "https://x.blob.core.windows.net/c/f?sp=r&sig=a%2Fb%3D",
            "https://x.blob.core.windows.net/c/f?sp=r&sig=***",
        ),
        ("http://host:8080/data@v2/shards", "http://host:8080/data@v2/shards"),
        ("http://u:se/cr?et#@host/x", "http://***@host/x"),
        (
            "abfs://container@account.dfs.core.windows.net/x",
            "abfs://container@account.dfs.core.windows.net/x",
        ),
        ("postgresql://mlflow@db/mlflow", "postgresql://mlflow@db/mlflow"),
        ("models:/base@champion", "models:/base@champion"),
        ("sqlite:////a/mlflow.db?timeout=30", "sqlite:////a/mlflow.db?timeout=30"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_addresses_are_shown_without_their_secrets(address: str, shown: str | None) -> None:
    expected = "s3://b/k?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***" if shown is None else shown
    assert masked(address) == expected
    assert masked(expected) == expected


def test_settings_are_masked_whole() -> None:
    content = {"data": {"shards": "http://u:p@h/s", "start": 0}, "depths": (1, 2), "x": [None, "ftp://u:p@h"]}
    assert masked_values(content) == {
        "data": {"shards": "http://***@h/s", "start": 0},
        "depths": [1, 2],
        "x": [None, "ftp://***@h"],
    }


def test_the_user_of_an_address_is_told_from_its_host() -> None:
    assert without_user("http://me:p%40w@host:5000/x") == ("http://host:5000/x", "me:p@w")
    assert without_user("http://host:5000") == ("http://host:5000", "")


def test_control_characters_are_shown() -> None:
    assert (
        visible("a\x1b[31mb\r\x07\x9b\u202e\ud800\tc\né🙂")
        == "a\\x1b[31mb\\r\\x07\\x9b\\u202e\\ud800\tc\né🙂"
    )
