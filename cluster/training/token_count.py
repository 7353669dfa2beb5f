"""How many tokens the weights have been trained on. A commit holds it, so it goes on where they do."""

from __future__ import annotations

from typing import Any

from cluster.checkpoints.commit import Cursor


class TokenCount:
    """Stands in front of what a commit holds beside the weights, and adds ``tokens`` to it.

    Counted are those of all workers that count in the loss, in steps that were applied.
    """

    def __init__(self, beside: Cursor) -> None:
        self._beside = beside
        self.tokens = 0

    def state_dict(self) -> dict[str, Any]:
        """The state of what it stands in front of, and the count."""
        return {**self._beside.state_dict(), "tokens": self.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a state was saved; from 0 where it is of a time when nobody counted."""
        self._beside.load_state_dict(state)
        self.tokens = state.get("tokens", 0)
