"""Hide the progress bars of the libraries that load a model, or let them be seen."""

import contextlib
import functools
import warnings
from collections.abc import Iterator

from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers.utils import logging

try:
    from transformers import modeling_gguf_pytorch_utils as gguf_loader
except ImportError:  # transformers means to drop this loader for one that heeds the switch
    gguf_loader = None


@contextlib.contextmanager
def progress_bars(*, shown: bool) -> Iterator[None]:
    """Inside this context the bars of transformers and of the hub are as usual or hidden; afterwards as before."""
    if shown:
        yield
        return
    of_transformers, of_hub = logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    # The loader of GGUF files heeds neither switch.
    of_gguf = getattr(gguf_loader, "tqdm", None)
    try:
        _switch(transformers_on=False, hub_on=False)
        if of_gguf is not None:
            gguf_loader.tqdm = functools.partial(of_gguf, disable=True)
        yield
    finally:
        if of_gguf is not None:
            gguf_loader.tqdm = of_gguf
        _switch(transformers_on=of_transformers, hub_on=of_hub)


def _switch(*, transformers_on: bool, hub_on: bool) -> None:
    with warnings.catch_warnings():
        # The hub warns where its environment variable has settled the matter already.
        warnings.simplefilter("ignore")
        # Switching transformers' bars switches the hub's too, so the hub comes second.
        if transformers_on:
            logging.enable_progress_bar()
        else:
            logging.disable_progress_bar()
        if hub_on:
            enable_progress_bars()
        else:
            disable_progress_bars()
