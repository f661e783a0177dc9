from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import msgspec
import pytest

from theo_workers.secret import Secret

VALUE = "sk-live-0123456789"


def test_gives_the_value_back_only_when_asked() -> None:
    assert Secret(VALUE).reveal() == VALUE


@pytest.mark.parametrize(
    "shown",
    [
        repr(Secret(VALUE)),
        str(Secret(VALUE)),
        f"{Secret(VALUE)}",
        f"{Secret(VALUE)!r}",
        f"{Secret(VALUE):>40}",
        f"{Secret(VALUE):.3}",
        "%s" % Secret(VALUE),  # noqa: UP031  # logging formats like this
        logging.LogRecord("x", 20, "x", 1, "key %s", (Secret(VALUE),), None)
        .getMessage()
        .removeprefix("key "),
    ],
)
def test_every_way_of_printing_shows_the_same_mask(shown: str) -> None:
    assert shown == "Secret(***)"


def test_hides_inside_other_values() -> None:
    assert VALUE not in repr({"api_key": [Secret(VALUE)]})


def test_hides_in_a_traceback_that_shows_locals() -> None:
    key = Secret(VALUE)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(key)
    told = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "Secret(***)" in told
    assert VALUE not in told


@pytest.mark.parametrize(
    "encode", [msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, json.dumps]
)
def test_no_encoder_takes_it(encode: object) -> None:
    with pytest.raises(TypeError):
        encode({"api_key": Secret(VALUE)})  # type: ignore[operator]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_is_not_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Secret(VALUE), protocol)


def test_has_no_dict_to_look_into() -> None:
    with pytest.raises(TypeError):
        vars(Secret(VALUE))


def test_is_not_copied_by_way_of_a_pickle() -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(Secret(VALUE))


def test_is_equal_by_value_and_to_nothing_else() -> None:
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("ä") != Secret("a")
    assert Secret("a") != "a"
