"""Errors a user can act on: one clear line each, no traceback.

The command line prints them as ``error: <message>`` and exits non-zero. Anything else that escapes
is a bug and is shown with its traceback.
"""


class LofitError(Exception):
    """Base of every error whose message says what is wrong, where, and what to do."""


class ConfigError(LofitError):
    """The configuration is invalid; nothing was downloaded or written."""


class SourceError(LofitError):
    """A model or dataset could not be fetched, verified or unpacked."""


class TaskError(LofitError):
    """Task data is malformed or does not fit the requested options."""


class EditError(LofitError, ValueError):
    """An intervention cannot be applied to, or folded into, this model; a ValueError, as PEFT's own refusals are."""


class FitError(LofitError):
    """Training ended for a reason of its own (diverged loss, out of memory)."""


class ReportError(LofitError):
    """Results are absent, malformed, or cannot be put into one table or figure."""
