"""The user of this process, who may have neither a name nor a home: containers run under any number."""

from __future__ import annotations

import getpass
import os
import tempfile
from pathlib import Path


def user_name() -> str:
    """The name of the user, or the number where none belongs to it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def complete_environment() -> None:
    """Give this process and its children a name and a home: other libraries fail without."""
    if "HOME" not in os.environ:
        os.environ["HOME"] = str(home())
    if not {"LOGNAME", "USER", "LNAME", "USERNAME"} & os.environ.keys():
        os.environ["LOGNAME"] = user_name()


def home() -> Path:
    """The user's home; without one, a folder of the user in the place for temporary files."""
    try:
        return Path.home()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"home-{os.getuid()}"
