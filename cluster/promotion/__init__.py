"""Deciding whether a version becomes the champion."""
