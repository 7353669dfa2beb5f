"""Types that several sections share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Steps = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
"""The seeds that torch takes."""
