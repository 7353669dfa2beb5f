"""Keys and the audit log in the pool's database."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from cluster.names import check_team
from cluster.pool.access import Access, Key
from cluster.pool.database import FILE_NAME, Database
from cluster.pool.journal import Journal
from cluster.web.keys import hashed, key_of, new_key


def a_key(team: str = "docs", number: int = 1, expires: float | None = None) -> Key:
    return Key(id=f"key-{number}", team=team, role="member", created=float(number), expires=expires)


def test_a_key_is_found_by_its_hash_until_it_is_revoked_or_has_expired(tmp_path: Path) -> None:
    access, text = Access(Database(tmp_path)), new_key()
    access.add(a_key(), hashed(text))
    access.add(a_key(), hashed(text))  # a call that was repeated
    access.add(a_key("sales", 2, expires=time.time() - 1), hashed("late"))
    access.add(a_key("sales", 3, expires=time.time() + 1000), hashed("soon"))
    assert access.find(hashed(text)) == a_key()
    assert access.find(hashed("late")) is None
    assert access.find(hashed("soon")) is not None
    assert access.find(text) is None
    assert text not in (tmp_path / FILE_NAME).read_bytes().decode(errors="replace")

    revoked = access.revoke("key-1").revoked
    assert revoked is not None
    assert access.find(hashed(text)) is None
    access.add(a_key(), hashed(text))
    assert access.find(hashed(text)) is None, "the same key does not come back"
    assert access.revoke("key-1").revoked == revoked
    with pytest.raises(ValueError, match="there is no key 'key-9'"):
        access.revoke("key-9")
    assert [key.id for key in access.all_keys()] == ["key-1", "key-2", "key-3"]


def test_keys_and_log_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    first = Database(tmp_path)
    Access(first).add(a_key(), hashed("text"))
    Access(first).note("key-1 of docs", "submitted", "docs/task/1")
    first.close()
    again = Access(Journal(tmp_path))
    assert again.find(hashed("text")) == a_key()
    [entry] = again.audit()
    assert entry[2:] == ("key-1 of docs", "submitted", "docs/task/1")


def test_a_database_of_before_keys_gets_them(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("PRAGMA user_version=3")
    access = Access(Database(tmp_path))
    access.add(a_key(), hashed("text"))
    assert access.find(hashed("text")) is not None


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer k", "k"), ("bearer  k ", "k"), ("k", None), ("Basic k", None), ("Bearer ", None), ("", None)],
)
def test_a_key_is_read_from_its_header(header: str, key: str | None) -> None:
    assert key_of(header) == key


@pytest.mark.parametrize("team", ["", "a--b", "../x", "a/b", "-a", "t" * 64, "a\n"])
def test_a_team_of_another_form_gets_no_key(team: str) -> None:
    with pytest.raises(ValueError, match="team"):
        check_team(team)
