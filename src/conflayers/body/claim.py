"""One request at a time on one model, whoever drives it, and the model left as it was found."""

import os
from collections.abc import Generator
from typing import Any, TypeVar

import torch
from torch import nn

from conflayers.errors import InputError, OutOfMemoryError

# The name under which a model carries the request that runs on it, beside its parameters and modules. On the model and
# not in a body, because several bodies may drive one model.
KEY = "_conflayers_request"

# What torch's allocators say, those of the CPU among them, which raise plain RuntimeErrors.
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")

# A child made by fork has this from its parent; one that was spawned imports this module itself.
IMPORTED_IN = os.getpid()

T = TypeVar("T")


def claim(model: nn.Module, request: object) -> None:
    """Have `model` to oneself until `let_go`.

    Raises:
        InputError: another request runs on it.
    """
    mine = (request, id(model))
    # One step of the interpreter, so that of two threads one gets it.
    held = model.__dict__.setdefault(KEY, mine)
    if held is mine:
        return
    if held[1] == id(model):
        raise InputError("this model is already generating: finish or close that request first")
    # A deep copy of a model that was generating; its copied request never ends.
    model.__dict__[KEY] = mine


def let_go(model: nn.Module, request: object) -> None:
    """End the claim of `request`, if it has one."""
    if model.__dict__.get(KEY, (None,))[0] is request:
        del model.__dict__[KEY]


def exclusively(body: Any, rounds: Generator[T, None, None]) -> Generator[T, None, None]:
    """`rounds`, with the model of `body` to themselves; whatever ends them, the model is as before.

    Args:
        body: a `PortableBody`.
        rounds: what `conflayers.decoding.decode` returns.

    Raises:
        InputError: another request runs on the model, or this process was forked since the model was loaded and would
            hang. OutOfMemoryError: the request is too large for the memory.
    """
    request = object()
    gradients = torch.is_grad_enabled()
    _refuse_fork(body)
    try:
        claim(body.model, request)
        for kept in rounds:
            yield kept
            gradients = torch.is_grad_enabled()
    except KeyboardInterrupt:
        # One that hits the end of a `torch.no_grad` leaves it in force.
        torch.set_grad_enabled(gradients)
        raise
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        room = body.room
        body.release()
        raise OutOfMemoryError(
            f"out of memory with a cache for {room} tokens (the prompt, the new ones and what is drafted): "
            "shorten the prompt, lower max_new_tokens, or load the model in a smaller dtype"
        ) from error
    finally:
        try:
            _end(body, rounds, request)
        except KeyboardInterrupt:
            # A Ctrl-C while the first one is being cleaned up after.
            _end(body, rounds, request)
            raise


def _refuse_fork(body: Any) -> None:
    if os.getpid() != body.process == IMPORTED_IN and torch.get_num_threads() > 1:
        raise InputError(
            "this process was forked after the model was loaded, and torch's threads would hang in it: call "
            "torch.set_num_threads(1) here first, or start processes by 'spawn' and load the model in each"
        )


def _end(body: Any, rounds: Generator[T, None, None], request: object) -> None:
    rounds.close()
    if body.model.__dict__.get(KEY, (None,))[0] is request:
        body.put_back()
        let_go(body.model, request)


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in OUT_OF_MEMORY)
