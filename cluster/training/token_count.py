"""Number of tokens that the weights have been trained on, stored in every checkpoint."""

from __future__ import annotations

from typing import Any

from cluster.checkpoints.commit import Cursor


class TokenCount:
    """Wraps the state that a checkpoint stores besides the weights, and adds ``tokens`` to it.

    It counts the tokens of all workers that contribute to the loss, in applied steps only.
    """

    def __init__(self, wrapped: Cursor) -> None:
        self._wrapped = wrapped
        self.tokens = 0

    def state_dict(self) -> dict[str, Any]:
        """The wrapped state and the count."""
        return {**self._wrapped.state_dict(), "tokens": self.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; checkpoints of older versions have no count."""
        self._wrapped.load_state_dict(state)
        self.tokens = state.get("tokens", 0)
