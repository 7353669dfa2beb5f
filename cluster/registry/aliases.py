"""The champion alias of a model, moved through an append-only log so that concurrent moves cannot be lost.

MLflow sets an alias to whatever it was told last, and keeps no history. So every move is first appended to a
log, a registered model called ``<name>.history`` with one version per move: MLflow numbers versions
consecutively for all clients and with any store. A move names the move it is based on, and counts only if
that is still the last one (compare-and-swap); of two concurrent moves the first counts, and the other raises
:class:`ConflictError`. The aliases are then set to what the log says.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cluster import names
from cluster.registry.versions import Version, create_model, resolve, versions, versions_of
from cluster.tags import MOVE_BASED_ON, MOVE_FROM, MOVE_GATE, MOVE_TO, MOVE_WHAT, MOVE_WHO, MOVE_WHY
from cluster.tracking.store import answering, connect, patience, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS, CANDIDATE = "champion", "previous", "candidate"
PROMOTED, ROLLED_BACK = "promoted", "rolled back"


class ConflictError(ValueError):
    """Another move of the same alias came first."""


@dataclass(frozen=True)
class Move:
    """An entry of a model's log: a move of its champion alias."""

    number: int
    what: str
    """``promoted`` or ``rolled back``."""
    before: str | None
    """The version that was champion before the move."""
    after: str
    """The version that the move makes champion."""
    who: str
    when: float
    """Seconds since the epoch, by the store's clock."""
    why: str
    gate: dict[str, Any] | None
    """The verdict of the gate that the version passed, if there was a gate."""
    based_on: int
    """Number of the last move when this one was decided."""
    counts: bool
    """Whether the move took effect; ``False`` if another move came in between."""


@dataclass
class Log:
    """The moves of a model's champion alias, and the champions that result from them."""

    moves: list[Move] = field(default_factory=list)
    last: int = 0
    """Number of the last move that counts."""
    champions: list[str] = field(default_factory=list)
    """Stack of champion versions: the last one is the champion, the one before it ``previous``."""


def read_log(name: str, uri: str | None = None) -> Log:
    """The log of a model; empty if its champion was never moved."""
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
    """Make a version champion; the present champion becomes ``previous``.

    Args:
        why: a short reason, for the log.
        gate: the verdict of the gate, for the log.
        based_on: number of the last move when this one was decided; that of now when not given.
        what: the kind of move, for the log.

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

        if log.champions[-1:] != [version.version]:
            number = _append(client, version, log.last, why, gate, what)
            log = _read_log(client, version.name)
            if not next(move.counts for move in log.moves if move.number == number):
                raise _conflict(log, version)
        # Also without a new move: a process that was killed may have left the aliases behind the log.
        _set_aliases(client, version.name)


def nominate(version: Version, uri: str, first: bool = True) -> None:
    """Make a version the candidate; with ``first`` also champion, if the model has none."""
    client = connect(tracking_uri(uri))
    with answering(uri), patience(seconds=60):
        _set_alias(client, version.name, CANDIDATE, version.version)
        if not first or CHAMPION in client.get_registered_model(version.name).aliases:
            return
    try:
        move(version, uri, why="the first", based_on=_read_log(client, version.name).last)
    except ConflictError:  # another version became the first champion
        return


def rollback(name: str, uri: str | None = None, why: str = "") -> Version:
    """Make the previous champion champion again, and return it.

    Raises:
        ValueError: when there is no such model, or it has no previous champion.
    """
    uri = tracking_uri(uri)
    versions(uri, name)  # raises for an unknown model
    log = read_log(name, uri)
    if len(log.champions) < 2:
        raise ValueError(f"models:/{name} has no previous champion to roll back to")
    version = resolve(f"models:/{name}/{log.champions[-2]}", uri)
    move(version, uri, why=why, based_on=log.last, what=ROLLED_BACK)
    return resolve(version.uri, uri)


def _read_log(client: MlflowClient, name: str) -> Log:
    from mlflow.exceptions import MlflowException

    try:
        entries = versions_of(client, names.history_of(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return Log()
    return replay([_move(entry) for entry in entries])


def replay(entries: Sequence[Move]) -> Log:
    """Apply entries in the order of their numbers; each counts if it is based on the last that counts."""
    log = Log()
    for entry in entries:
        counts = entry.based_on == log.last
        log.moves.append(replace(entry, counts=counts))
        if not counts:
            continue

        log.last = entry.number
        if entry.what == ROLLED_BACK and entry.after in log.champions:
            while log.champions[-1] != entry.after:
                log.champions.pop()
            continue
        # Someone may have moved the alias without the log: that version was the champion before.
        if entry.before is not None and log.champions[-1:] != [entry.before]:
            log.champions.append(entry.before)
        log.champions.append(entry.after)
    return log


def _move(entry: Version) -> Move:
    tags, gate = entry.tags, None
    try:
        based_on, after = int(tags[MOVE_BASED_ON]), tags[MOVE_TO]
        gate = json.loads(tags.get(MOVE_GATE, "null"))
    except (KeyError, ValueError):  # somebody has written it by hand: it must not hide the others
        based_on, after = -1, tags.get(MOVE_TO, "")
    return Move(
        number=int(entry.version),
        what=tags.get(MOVE_WHAT, ""),
        before=tags.get(MOVE_FROM) or None,
        after=after,
        who=tags.get(MOVE_WHO, ""),
        when=entry.created,
        why=tags.get(MOVE_WHY, ""),
        gate=gate if isinstance(gate, dict) else None,
        based_on=based_on,
        counts=False,
    )


def create_log(client: MlflowClient, name: str) -> None:
    """Create the registered model that is the log of ``name``, if it does not exist."""
    create_model(client, names.history_of(name), f"The moves of models:/{name}@{CHAMPION}.")


def _append(
    client: MlflowClient, version: Version, based_on: int, why: str, gate: dict[str, Any] | None, what: str
) -> int:
    """Append a move to the log; its number."""
    name = names.history_of(version.name)
    create_log(client, version.name)
    before = client.get_registered_model(version.name).aliases.get(CHAMPION, "")
    who = names.who()
    tags = {
        MOVE_BASED_ON: str(based_on),
        MOVE_FROM: str(before),
        MOVE_TO: version.version,
        MOVE_WHO: who,
        MOVE_WHAT: what,
        MOVE_WHY: why,
    }
    if gate is not None:
        tags[MOVE_GATE] = json.dumps(gate)

    line = f"{what} {before or 'none'} → {version.version} by {who}" + (f": {why}" if why else "")
    entry = client.create_model_version(
        name, version.location, version.run_id or None, tags=tags, description=line, await_creation_for=None
    )
    return int(entry.version)


def _set_aliases(client: MlflowClient, name: str) -> None:
    """Set the aliases to what the log says, until the log no longer changes meanwhile."""
    while True:
        log = _read_log(client, name)
        champion, previous = log.champions[-1], log.champions[-2:-1]
        aliases = client.get_registered_model(name).aliases
        if str(aliases.get(CHAMPION)) != champion:
            _set_alias(client, name, CHAMPION, champion)
        if previous and str(aliases.get(PREVIOUS)) != previous[0]:
            _set_alias(client, name, PREVIOUS, previous[0])
        if not previous and PREVIOUS in aliases:
            client.delete_registered_model_alias(name, PREVIOUS)
        if _read_log(client, name).last == log.last:
            return


def _set_alias(client: MlflowClient, name: str, alias: str, version: str) -> None:
    """Set an alias, with retries: when two clients create one at once, MLflow lets the second fail."""
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
        f"look at it, and promote {version.uri} again if that is still right"
    )
