"""What ends a run."""


class BenchError(Exception):
    """The run is broken: its figures would mean nothing. The message is one line that tells the reader why."""
