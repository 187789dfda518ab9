"""Errors that a user can cause: each says what was given and what would be right."""


class InputError(ValueError):
    """What was asked for does not fit. The command line prints it as one line and exits with code 2."""


class MediaError(InputError):
    """A picture or clip cannot be read, or a file cannot be written."""


class WeightsError(InputError):
    """A model folder or a weight file is missing something, has too much, or is damaged."""


class CheckpointError(InputError):
    """A training checkpoint cannot be read or does not belong to this configuration."""
