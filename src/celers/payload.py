"""The payload of an application's task: its arguments, as JSON, msgpack or pickle.

A payload is ``[args, kwargs]``. Its first byte tells the format, so a queue may hold several: ``0x92`` is a msgpack
array of two, ``0x80`` begins every pickle since protocol 2, anything else is JSON text.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from celers import validate
from celers.errors import ConfigurationError, DeserializationError, SerializationError, ValidationError

__all__ = ["FORMATS", "Arguments", "accepted_formats", "decode", "encode", "encoder", "format_of"]

FORMATS: Final = ("json", "msgpack", "pickle")

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
"""Positional and named arguments of one call."""

_MSGPACK, _PICKLE, _BRACKET = 0x92, 0x80, 0x5B
_SEQUENCES = (list, tuple)
_read_json = json.JSONDecoder().raw_decode


def format_of(payload: bytes) -> str:
    """Return the name of a payload's format by its first byte; it may still not be readable as such."""
    first = payload[0] if payload else -1
    return "pickle" if first == _PICKLE else "msgpack" if first == _MSGPACK else "json"


def accepted_formats(names: Iterable[str]) -> frozenset[str]:
    """Check the names of formats that a worker reads.

    Raises
    ------
    ValidationError
        For a name that is none of `FORMATS`.
    ConfigurationError
        For msgpack without the package.
    """
    if isinstance(names, str):
        raise ValidationError(f"accept={names!r} must be a sequence of names", parameter="accept")
    found = frozenset(_known(name, "accept") for name in names)
    if "msgpack" in found:
        _msgpack()
    return found


def encoder(name: str) -> Callable[[Sequence[Any], Mapping[str, Any]], bytes]:
    """Return the function that writes arguments in a format.

    Raises
    ------
    ValidationError
        For an unknown name.
    ConfigurationError
        For msgpack without the package.
    """
    known = _known(name, "serializer")
    if known == "msgpack":
        _msgpack()
    return _ENCODERS[known]


def encode(args: Sequence[Any], kwargs: Mapping[str, Any], serializer: str = "json") -> bytes:
    """Write the arguments of a call.

    Raises
    ------
    SerializationError
        When the format cannot hold a value. JSON turns tuples into lists and takes neither bytes nor dates.
    """
    return encoder(serializer)(args, kwargs)


def decode(payload: bytes) -> Arguments:
    """Read the arguments of a call; the caller has asked `format_of` whether the format is allowed.

    Raises
    ------
    DeserializationError
        When the bytes are not ``[args, kwargs]`` in the format that the first byte names.
    """
    if not payload:
        raise DeserializationError("the payload is empty; it should be [args, kwargs]")
    first = payload[0]
    try:
        if first == _BRACKET:
            value = _decode_json(payload)
        elif first == _PICKLE:
            # Only a worker that was told to accept pickle comes here.
            value = pickle.loads(payload)  # noqa: S301
        elif first == _MSGPACK:
            value = _msgpack().unpackb(payload, timestamp=3)
        else:
            value = json.loads(payload)
    except ConfigurationError:
        raise
    except RecursionError:
        raise DeserializationError("the payload is nested too deeply") from None
    except Exception as error:  # reading foreign bytes may raise anything, in pickle literally so
        kind = format_of(payload)
        # The text of the error may show the data, so only its type is told.
        raise DeserializationError(f"the payload cannot be read as {kind}: {type(error).__name__}") from error
    if isinstance(value, _SEQUENCES) and len(value) == 2:
        args, kwargs = value
        if (
            isinstance(args, _SEQUENCES)
            and isinstance(kwargs, dict)
            and (not kwargs or all(isinstance(key, str) for key in kwargs))
        ):
            return args, kwargs
    raise DeserializationError(f"the payload is not [args, kwargs] but {type(value).__name__} of another form")


def _decode_json(payload: bytes) -> Any:
    # json.loads finds out the encoding and makes room for white space, which costs more than the parsing of a small
    # payload. An opening bracket without a NUL behind it is UTF-8 to it as well.
    if payload[1:2] != b"\0":
        text = payload.decode("utf-8", "surrogatepass")
        value, end = _read_json(text)
        if end == len(text):
            return value
    return json.loads(payload)


def _known(name: object, parameter: str) -> str:
    if isinstance(name, str) and name in FORMATS:
        return name
    raise ValidationError(f"{parameter} must be one of {', '.join(FORMATS)}, not {name!r}", parameter=parameter)


def _encode_json(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    return validate.json_text([args, kwargs], "the task's arguments").encode()


def _encode_msgpack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    try:
        packed: bytes = _msgpack().packb([list(args), dict(kwargs)], datetime=True)
    except RecursionError:
        raise SerializationError("the task's arguments are nested too deeply") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise SerializationError(f"the task's arguments cannot be written as msgpack: {error}") from error
    return packed


def _encode_pickle(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    try:
        return pickle.dumps([list(args), dict(kwargs)], protocol=4)
    except Exception as error:
        raise SerializationError(f"the task's arguments cannot be pickled: {error}") from error


_ENCODERS: Final[dict[str, Callable[[Sequence[Any], Mapping[str, Any]], bytes]]] = {
    "json": _encode_json,
    "msgpack": _encode_msgpack,
    "pickle": _encode_pickle,
}


def _msgpack() -> Any:
    try:
        import msgpack
    except ImportError:
        raise ConfigurationError("the format msgpack needs the package msgpack: pip install celers[msgpack]") from None
    return msgpack
