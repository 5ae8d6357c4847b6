"""A query of a caller that is going to be explained: one SELECT, without anything that acts.

The text becomes part of a statement of ours, so it is taken apart with the same tokens as the migration files,
comments are taken out, and what is left is put together again. The server lexes numbers in its own way: ``1e1INTO``
and ``.5INTO`` are a number and a keyword to it, so a word is also looked at without the number that it begins with.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from celers.errors import ValidationError
from celers.sql.splitter import Kind, Token, tokens

__all__ = ["ACTING_FUNCTIONS", "select_text"]

ACTING_FUNCTIONS: Final = frozenset(
    {
        "BENCHMARK",
        "GET_LOCK",
        "LOAD_FILE",
        "MASTER_GTID_WAIT",
        "MASTER_POS_WAIT",
        "NEXTVAL",
        "RELEASE_ALL_LOCKS",
        "RELEASE_LOCK",
        "SETVAL",
        "SLEEP",
        "SOURCE_POS_WAIT",
        "WAIT_FOR_EXECUTED_GTID_SET",
        "WAIT_UNTIL_SQL_THREAD_AFTER_GTIDS",
    }
)
"""Functions that wait, lock, read files or count on; a server may call them while it only makes a plan."""

_REFUSED: Final = {
    "INTO": "INTO",
    "LOCK": "a locking clause",
    "PROCEDURE": "PROCEDURE",
}
_PAIRS: Final = {
    ("FOR", "UPDATE"): "a locking clause",
    ("FOR", "SHARE"): "a locking clause",
    ("VALUE", "FOR"): "a sequence",
}
_VERBS: Final = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "TABLE", "VALUES"})
_NUMBER = re.compile(r"\d+(?:e\d+)?", re.IGNORECASE)


def _refused(what: str, name: str) -> ValidationError:
    return ValidationError(f"{name} must be one SELECT without effects, but has {what}", parameter=name)


def select_text(query: object, name: str = "query") -> bytes:
    """Return the text of one SELECT, or WITH ... SELECT, without comments and without a semicolon at its end.

    Raises
    ------
    ValidationError
        Another kind of statement, more than one, a locking clause, INTO, an executable comment, a function of
        `ACTING_FUNCTIONS`, NUL, a backslash outside of quotes, or something quoted that has no end.
    """
    if not isinstance(query, str):
        raise ValidationError(f"{name} must be text, not {type(query).__name__}", parameter=name)
    if "\0" in query:
        raise _refused("a NUL character", name)
    try:
        found = [_plain(token, name) for token in tokens(query)]
    except ValidationError as error:
        if error.parameter is None:
            error.parameter = name
        raise
    parts = [token for token in found if token.kind is not Kind.SPACE]
    if parts and parts[-1].text == ";":
        del parts[-1]
        found = found[: max(i for i, token in enumerate(found) if token.text == ";")]
    if any(token.kind is Kind.SYMBOL and token.text == ";" for token in parts):
        raise _refused("a second statement", name)
    _check_kind(parts, name)
    _check_words(parts, name)
    text = "".join(token.text for token in found).strip()
    # Two minus signs are a comment only before a blank or the end, and either may have come by what was taken out.
    if any(token.kind is Kind.COMMENT for token in tokens(text)):
        raise _refused("two minus signs that begin a comment", name)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise _refused("a surrogate, which is no character", name) from None


def _plain(token: Token, name: str) -> Token:
    """Refuse what is no plain SQL; a comment becomes a blank, as it is to the server."""
    if token.kind is Kind.EXECUTABLE:
        raise _refused("an executable comment", name)
    if token.kind is Kind.COMMENT:
        return Token(Kind.SPACE, " ", token.start)
    if token.kind is Kind.SYMBOL and token.text == "\\":
        raise _refused("a backslash outside of quotes", name)
    return token


def _check_kind(parts: Sequence[Token], name: str) -> None:
    """The first verb outside of parentheses must be SELECT; parentheses may stand around all of it."""
    at = next((i for i, token in enumerate(parts) if token.text != "("), len(parts))
    first = parts[at].text.upper() if at < len(parts) and parts[at].kind is Kind.WORD else ""
    if first == "SELECT":
        return
    if first == "WITH":
        depth = 0
        for token in parts[at + 1 :]:
            if token.kind is Kind.SYMBOL:
                depth += {"(": 1, ")": -1}.get(token.text, 0)
            elif token.kind is Kind.WORD and depth == 0 and token.text.upper() in _VERBS:
                if token.text.upper() == "SELECT":
                    return
                break
    raise ValidationError(
        f"{name} must begin with SELECT, or WITH ... SELECT: nothing else is explained", parameter=name
    )


def _word(token: Token) -> str:
    """The keyword that the server may see in a token."""
    if token.kind is not Kind.WORD:
        return ""
    text = token.text
    number = _NUMBER.match(text)
    return (text[number.end() :] if number is not None else text).upper()


def _check_words(parts: Sequence[Token], name: str) -> None:
    for i, token in enumerate(parts):
        following = parts[i + 1] if i + 1 < len(parts) else None
        called = token.text.strip("`").upper() if token.kind is Kind.QUOTED else _word(token)
        if called in ACTING_FUNCTIONS and following is not None and following.text == "(":
            raise _refused(f"the function {called}", name)
        word = _word(token)
        what = _REFUSED.get(word) or (following and _PAIRS.get((word, _word(following))))
        if what:
            raise _refused(what, name)
