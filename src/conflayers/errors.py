"""The errors a caller can meet. Each message names what is wrong and says what to do about it."""


class ConfLayersError(Exception):
    """Base of every error this library raises on purpose."""


class InputError(ConfLayersError, ValueError):
    """An argument that cannot be honoured: a length, a prompt, an option."""


class LoadError(ConfLayersError):
    """A checkpoint that is missing, damaged or not to be trusted."""


class UnsupportedModelError(ConfLayersError):
    """A model whose structure the body cannot drive exactly; the message names the model and the reason."""


class PlanError(ConfLayersError, ValueError):
    """A saved plan that is unreadable, or was made for another model."""


class NumericalError(ConfLayersError, RuntimeError):
    """Scores that no token can be chosen by: not finite, or with every token ruled out."""


class DraftError(ConfLayersError, ValueError):
    """A drafter proposed what no verification can run: the fault is the drafter's, and the message says which."""


class OutOfMemoryError(ConfLayersError, RuntimeError):
    """A request that needs more memory than there is; the message says how much text it was for."""
