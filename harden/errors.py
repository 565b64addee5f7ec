"""The errors a user can cause, each with the repair in its hint.

Everything the package raises on purpose derives from `HardenError`; the command line turns each class into one
exit code (`harden/cli/errors.py`). A message says what was expected and what came; the hint names the flag or
command that repairs it.
"""

from __future__ import annotations


class HardenError(Exception):
    """A failure with a message for a person and, where one exists, the repair."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HardenError):
    """A flag, a recipe key or a combination of them that cannot work."""


class BudgetError(UsageError):
    """A time budget that is too small for what is asked, or that was spent before all was done."""


class DataError(HardenError):
    """Images or labels that cannot be used as they are."""


class ModelError(HardenError):
    """A model that cannot be built, loaded, split or trained as asked."""


class NoGradientError(ModelError):
    """A model whose scores have no gradient, so that it can neither be trained nor attacked by gradients."""

    def __init__(
        self,
        message: str = "the model's scores have no gradient: something inside it leaves torch's graph (detach, "
        "no_grad, numpy, a comparison)",
    ) -> None:
        super().__init__(message, hint="an audit by its scores alone (square-5000) is possible, training is not")


class UserCodeError(ModelError):
    """Code that the user brings failed; `__cause__` is what it raised.

    Attributes:
        reason: what was raised, in one line, with the user's file and line where they are known.
        ended: whether the code tried to end the program instead of raising an ordinary exception.
    """

    def __init__(self, message: str, *, reason: str = "", ended: bool = False, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason
        self.ended = ended


class MissingModelError(UsageError, ModelError):
    """A model, code or layer that does not exist under the name that the user gave it."""


class MissingDataError(UsageError, DataError):
    """Data that are not where the user said."""


class PreflightError(ModelError):
    """The model and the data do not fit: every normalisation leaves it near chance, or the classes are permuted.

    Attributes:
        permuted: whether the classes are permuted, so that no other normalisation would repair it.
    """

    def __init__(self, message: str, *, hint: str | None = None, permuted: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.permuted = permuted


class UnsafeInputError(HardenError):
    """A file that would run code if it were opened the ordinary way."""


class RunFolderError(HardenError):
    """A run folder that exists already, is damaged, or does not fit what is asked of it."""


class OccupiedError(UsageError, RunFolderError):
    """A folder for output that holds something already."""


class WriteError(RunFolderError):
    """A file that cannot be written: no space is left, or no right to."""


class TrainingError(HardenError):
    """Training that cannot go on (non-finite loss, collapse without a way back)."""


class ProcessLostError(HardenError):
    """One of the processes that train or audit a model together is gone, so that the others cannot go on."""


class GateError(HardenError):
    """A stated quality gate was not met."""


class ExportError(HardenError):
    """An exported file that does not agree with the model it came from."""


class NoExportError(UsageError, ExportError):
    """A folder that is named as an export and is none."""


class Interrupted(HardenError):  # noqa: N818 - it is no error
    """The user stopped the program; what was done is kept and can be resumed."""


def text_of(error: BaseException) -> str:
    """Return `str(error)`, or "" for an error whose own `__str__` fails."""
    try:
        return str(error)
    except Exception:
        return ""
