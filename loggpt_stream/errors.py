"""Errors that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right. The message is one or two sentences: what is wrong, and what to do."""


class BundleError(UserError):
    """A bundle that is missing, partial, altered or not calibrated."""
