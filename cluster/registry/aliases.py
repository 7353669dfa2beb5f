"""Which version of a model is its champion: moved by one writer at a time, in a log that only grows.

MLflow sets an alias to whatever it is told last, and keeps no record. So every move is first appended to a
log, which is a registered model of its own, ``<name>.history``, with a version for each move: MLflow numbers
versions one after another whoever asks, with any store. A move says which one it is based on, and
counts only if that is still the last; so of two that were decided at once the first counts and the other is
told. The aliases are then set to what the log says.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.registry.versions import HISTORY, Version, resolve, versions, versions_of
from cluster.tracking.store import answering, connect, patience, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
BASED_ON, FROM, TO, WHO, WHAT, WHY, GATE = (
    f"odeformer.move.{name}" for name in ("behind", "from", "to", "who", "what", "why", "gate")
)
PROMOTED, ROLLED_BACK = "promoted", "rolled back"


class ConflictError(ValueError):
    """Another move of the same alias came first."""


@dataclass(frozen=True)
class Move:
    """One entry of a log."""

    number: int
    what: str
    """``promoted`` or ``rolled back``."""
    before: str | None
    """The version that was champion."""
    after: str
    """The one that was to be."""
    who: str
    when: float
    """Seconds since 1970, by the store's clock."""
    why: str
    gate: dict[str, Any] | None
    """What the gate measured, where one was passed."""
    based_on: int
    """The number of the move that was the last one when this one was decided."""
    counts: bool
    """False: another move came in between, and this one changed nothing."""


@dataclass
class Log:
    """The moves of a model's champion, and what they come to."""

    moves: list[Move] = field(default_factory=list)
    last: int = 0
    """The number of the last move that counts."""
    champions: list[str] = field(default_factory=list)
    """Versions, of which the last is champion and the one before it ``previous``."""


def read_log(name: str, uri: str | None = None) -> Log:
    """The log of a model, empty where its champion was never moved."""
    return _read_log(connect(tracking_uri(uri)), name)


def move(
    version: Version,
    uri: str,
    *,
    why: str,
    gate: dict[str, Any] | None = None,
    based_on: int | None = None,
    what: str = PROMOTED,
) -> None:
    """Make a version champion; the one that was is ``previous`` from then on.

    Args:
        why: in a few words, for the log.
        gate: what was measured before.
        based_on: the number of the move that was the last when this one was decided; now when not given.

    Raises:
        ConflictError: when another move came first. Nothing has changed.
        ConnectionError: when the store does not answer.
    """
    uri = tracking_uri(uri)
    with answering(uri), patience(seconds=60):
        client = connect(uri)
        log = _read_log(client, version.name)
        if based_on is not None and based_on != log.last:
            raise _conflict(log, version)
        if log.champions[-1:] == [version.version]:  # an alias that a killed process did not get to is set
            _set_aliases(client, version.name)
            return
        number = _append(client, version, log.last, why, gate, what)
        log = _read_log(client, version.name)
        if not next(move.counts for move in log.moves if move.number == number):
            raise _conflict(log, version)
        _set_aliases(client, version.name)


def nominate(version: Version, uri: str, first: bool = True) -> None:
    """Make a version the candidate; and champion, if the ``first`` is to be that, where there is none."""
    client = connect(tracking_uri(uri))
    with answering(uri), patience(seconds=60):
        _set_alias(client, version.name, CANDIDATE, version.version)
        if not first or CHAMPION in client.get_registered_model(version.name).aliases:
            return
    try:
        move(version, uri, why="the first", based_on=_read_log(client, version.name).last)
    except ConflictError:  # another one was the first
        return


def rollback(name: str, uri: str | None = None, why: str = "") -> Version:
    """Make the version that was champion before champion again, and return it.

    Raises:
        ValueError: when there was none, or no such model.
    """
    uri = tracking_uri(uri)
    versions(uri, name)  # refuses a model that is not there
    log = read_log(name, uri)
    if len(log.champions) < 2:
        raise ValueError(
            f"models:/{name} had no champion before the present one: there is nothing to go back to"
        )
    version = resolve(f"models:/{name}/{log.champions[-2]}", uri)
    move(version, uri, why=why, based_on=log.last, what=ROLLED_BACK)
    return resolve(version.uri, uri)


def _read_log(client: MlflowClient, name: str) -> Log:
    from mlflow.exceptions import MlflowException

    try:
        entries = versions_of(client, name + HISTORY)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return Log()
    return replay([_move(entry) for entry in entries])


def replay(entries: Sequence[Move]) -> Log:
    """What entries come to, in the order of their numbers: each counts if it is based on the last."""
    log = Log()
    for entry in entries:
        counts = entry.based_on == log.last
        log.moves.append(Move(**{**vars(entry), "counts": counts}))
        if not counts:
            continue
        log.last = entry.number
        if entry.what == ROLLED_BACK and entry.after in log.champions:
            while log.champions[-1] != entry.after:
                log.champions.pop()
            continue
        # Where the alias was moved by other hands in between, that one was the champion before.
        if entry.before is not None and log.champions[-1:] != [entry.before]:
            log.champions.append(entry.before)
        log.champions.append(entry.after)
    return log


def _move(entry: Version) -> Move:
    tags = entry.tags
    return Move(
        number=int(entry.version),
        what=tags[WHAT],
        before=tags.get(FROM) or None,
        after=tags[TO],
        who=tags.get(WHO, ""),
        when=entry.created,
        why=tags.get(WHY, ""),
        gate=json.loads(tags[GATE]) if GATE in tags else None,
        based_on=int(tags[BASED_ON]),
        counts=False,
    )


def _append(
    client: MlflowClient, version: Version, based_on: int, why: str, gate: dict[str, Any] | None, what: str
) -> int:
    """Append a move to the log; its number."""
    from mlflow.exceptions import MlflowException

    name = version.name + HISTORY
    try:
        client.create_registered_model(name, description=f"The moves of models:/{version.name}@{CHAMPION}.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    before = client.get_registered_model(version.name).aliases.get(CHAMPION, "")
    tags = {
        BASED_ON: str(based_on),
        FROM: str(before),
        TO: version.version,
        WHO: _who(),
        WHAT: what,
        WHY: why,
    }
    if gate is not None:
        tags[GATE] = json.dumps(gate)
    line = f"{what} {before or 'none'} → {version.version} by {tags[WHO]}" + (f": {why}" if why else "")
    made = client.create_model_version(
        name, version.location, version.run_id or None, tags=tags, description=line, await_creation_for=None
    )
    return int(made.version)


def _set_aliases(client: MlflowClient, name: str) -> None:
    """Set the aliases to what the log says, until it says nothing newer."""
    while True:
        log = _read_log(client, name)
        champion, previous = log.champions[-1], log.champions[-2:-1]
        there = client.get_registered_model(name).aliases
        if str(there.get(CHAMPION)) != champion:
            _set_alias(client, name, CHAMPION, champion)
        if previous and str(there.get(PREVIOUS)) != previous[0]:
            _set_alias(client, name, PREVIOUS, previous[0])
        if not previous and PREVIOUS in there:
            client.delete_registered_model_alias(name, PREVIOUS)
        if _read_log(client, name).last == log.last:
            return


def _set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Set an alias, again where it fails: of two that make one at once MLflow lets the second fail."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for attempts_left in (2, 1, 0):
        try:
            return client.set_registered_model_alias(name, alias, version)
        except (MlflowException, SQLAlchemyError):
            if not attempts_left:
                raise
    return None


def _conflict(log: Log, version: Version) -> ConflictError:
    last = log.moves[log.last - 1]
    return ConflictError(
        f"models:/{version.name}@{CHAMPION} was moved to version {last.after} by {last.who} in the meantime: "
        f"look at it, and promote {version.uri} again if it is still right"
    )


def _who() -> str:
    return f"{os.environ.get('MLFLOW_TRACKING_USERNAME') or getpass.getuser()}@{socket.gethostname()}"
