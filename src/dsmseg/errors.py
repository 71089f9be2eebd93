"""The one exception family of dsmseg: each text says what was found, where, and how to mend it."""

from functools import partial


class DsmsegError(Exception):
    """What the caller can mend. The command line prints it as one line and exits with 2."""

    def __init__(self, what: str, *, where: object = None, mend: str) -> None:
        """State ``what`` was found, ``where`` (a path, a case, an option) and how to ``mend`` it."""
        self.what = what
        self.where = where
        self.mend = mend
        place = "" if where is None else f"{where}: "
        super().__init__(" ".join(f"{place}{what}. {mend}".split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Let an error go from one process to another: what it is made from is more than its text."""
        return partial(type(self), where=self.where, mend=self.mend), (self.what,)


class InputError(DsmsegError):
    """A scan, label map or setting that cannot be used as it is."""


class OutputError(DsmsegError):
    """A place that cannot be written to."""


class WeightsError(DsmsegError):
    """Weights that are missing, damaged, or do not fit the network."""
