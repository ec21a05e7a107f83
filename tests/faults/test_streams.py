"""A stream that is closed, dropped, or whose reader fails leaves the model ready for the next request."""

import gc
import signal
import threading
import weakref

import pytest
from faults.helpers import CHAIN, PROMPT, TREE, assert_as_new, assert_clean

from conflayers import InputError

OPTIONS = {"max_new_tokens": 10, **CHAIN}


@pytest.mark.parametrize("options", [CHAIN, TREE, {"interval": 1, "fallback": False}], ids=["chain", "tree", "search"])
@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_closed_stream(reading, fresh, options, pieces):
    stream = reading.stream(PROMPT, max_new_tokens=10, **options)
    for _ in range(pieces):
        next(stream)

    stream.close()

    assert_as_new(reading, fresh)
    assert list(stream) == []
    with pytest.raises(InputError, match="has not ended"):
        _ = stream.result
    stream.close()


def test_a_dropped_stream_is_gone_at_once_and_needs_no_thread(reading, fresh):
    before = threading.active_count()
    stream = reading.stream(PROMPT, **OPTIONS)
    next(stream)
    assert threading.active_count() == before
    gone = weakref.ref(stream)

    gc.disable()
    try:
        del stream
        assert gone() is None
        assert_as_new(reading, fresh)
    finally:
        gc.enable()


def test_leaving_the_block_closes_the_stream(reading, fresh):
    with reading.stream(PROMPT, **OPTIONS) as stream:
        first = next(stream)
    assert len(first) == 1
    assert_as_new(reading, fresh)
    assert next(stream, None) is None


class MistakeError(Exception):
    """What no library raises."""


def test_a_reader_that_raises_inside_the_block(reading, fresh):
    def read():
        with reading.stream(PROMPT, **OPTIONS) as stream:
            for _ in stream:
                raise MistakeError

    with pytest.raises(MistakeError) as caught:
        read()
    # The error still holds the reader's frame, and the frame the stream.
    assert caught.value.__traceback__ is not None
    assert_as_new(reading, fresh)


@pytest.fixture
def interruptible():
    """A process started in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_in_the_reader(reading, fresh):
    def read():
        for number, _ in enumerate(reading.stream(PROMPT, **OPTIONS)):
            if number == 1:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        read()
    assert_as_new(reading, fresh)


def test_an_error_is_raised_once_and_then_the_stream_is_over(reading, fresh):
    stream = reading.stream(PROMPT, **OPTIONS)
    next(stream)

    def fail(*_):
        raise MistakeError

    hook = reading.model.model.layers[2].register_forward_pre_hook(fail)
    with pytest.raises(MistakeError):
        list(stream)
    hook.remove()
    assert list(stream) == []
    with pytest.raises(InputError, match="has not ended"):
        _ = stream.result
    assert_as_new(reading, fresh)


def test_pieces_and_result_are_those_of_generate(reading, fresh):
    whole = reading.generate(PROMPT, **OPTIONS)
    with reading.stream(PROMPT, **OPTIONS) as stream:
        pieces = list(stream)

    assert "".join(pieces) == stream.result.text == whole.text
    assert len(pieces) > 1
    assert stream.result.token_ids == whole.token_ids == fresh
    assert_clean(reading)


def test_an_unread_stream_does_not_hold_the_model(reading, fresh):
    waiting = reading.stream(PROMPT, **OPTIONS)
    assert_as_new(reading, fresh)
    assert "".join(waiting) == reading.generate(PROMPT, **OPTIONS).text
