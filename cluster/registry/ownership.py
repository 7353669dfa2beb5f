"""Owners of models: all versions of a model are of one team's task, or none is of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cluster.names import history_of
from cluster.registry import aliases
from cluster.registry.versions import create_model, tags_of_versions
from cluster.tags import TASK, TEAM
from cluster.tracking.store import session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow import MlflowClient


class Owner(NamedTuple):
    """A team's task; two ``None`` for versions of no task."""

    team: str | None
    task: str | None

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Owner:
        """The owner that the tags of a model or a version name."""
        return cls(tags.get(TEAM), tags.get(TASK))

    def __str__(self) -> str:
        return "no task" if self.task is None else f"task {self.task} of team {self.team}"


def owners(client: MlflowClient, name: str) -> set[Owner]:
    """The owners of a model's versions, and whoever claimed it; empty if there is none."""
    from mlflow.exceptions import MlflowException

    found = {Owner.of(tags) for tags in tags_of_versions(client, name)}
    try:
        claimed = Owner.of(client.get_registered_model(name).tags or {})
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return found
    return found | ({claimed} if claimed.task is not None else set())


def check_owner(client: MlflowClient, name: str, owner: Owner) -> None:
    """Check that a model holds nothing of another owner.

    Raises:
        ValueError: if it does, naming both.
    """
    others = owners(client, name) - {owner}
    if others:
        raise ValueError(
            f"models:/{name} holds versions of {min(map(str, others))}, and this is of {owner}: "
            "choose another name"
        )


def claim(name: str, owner: Owner, uri: str) -> None:
    """Create a task's model and the log of its champion, so that nobody else can take the names. Idempotent.

    Raises:
        ValueError: when it holds versions of another task.
        RefusedError: when one of the two is another account's.
        ConnectionError: when the store does not answer.
    """
    with session(uri) as client:
        check_owner(client, name, owner)
        create_model(client, name)
        aliases.create_log(client, name)
        for model in (name, history_of(name)):
            # Whoever may read a model may not tag it: another account's is found here.
            client.set_registered_model_tag(model, TEAM, owner.team)
            client.set_registered_model_tag(model, TASK, owner.task)
