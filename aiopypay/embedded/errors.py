"""The errors of the embedded PostgreSQL."""


class EmbeddedError(Exception):
    """The embedded PostgreSQL cannot be used. The message is one line that tells the reader what to do."""


class StoppedByOperator(EmbeddedError):
    """The operator stopped the server and has not started it again."""
