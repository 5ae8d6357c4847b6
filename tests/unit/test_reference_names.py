"""The flat names are those that were promised, and are called as promised."""

from __future__ import annotations

import ast
import inspect

import pytest

from celers import AsyncMysqlBroker, MysqlBroker
from tests.reference.__main__ import stale
from tests.reference.names import BROKER, MISSING, OPERATIONS
from tests.reference.operations import rows

ROWS = {row.flat: row for row in rows()}
PROMISED = [line.split(maxsplit=1)[1] for line in OPERATIONS.split("\n") if line]


def name_of(promised: str) -> str:
    return promised.partition("(")[0]


@pytest.mark.spec("ARCH-01")
def test_no_promised_name_is_missing():
    missing = {name_of(one) for one in PROMISED} - set(ROWS)
    assert missing == MISSING, "MISSING in tests/reference/names.py must name these, and no others"


@pytest.mark.spec("ARCH-01", "CONF-02", "CONF-04", "CORE-13", "CORE-14", "CORE-16")
def test_the_broker_offers_what_is_no_operation():
    for line in BROKER.strip().split("\n"):
        assert callable(getattr(MysqlBroker, line.split()[1]))
    assert inspect.iscoroutinefunction(AsyncMysqlBroker.dequeue_wait)
    assert inspect.iscoroutinefunction(AsyncMysqlBroker.close)


@pytest.mark.parametrize("promised", [one for one in PROMISED if name_of(one) in ROWS], ids=name_of)
@pytest.mark.spec("ARCH-01")
def test_an_operation_is_called_as_promised(promised):
    function = ast.parse(f"def {promised}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    assert function.returns is not None
    row = ROWS[function.name]
    given = {one.name: one for one in row.parameters}
    expected = function.args
    positional = [one.arg for one in expected.args]
    keywords = [one.arg for one in expected.kwonlyargs]
    # Those that may be given by place come first and in this order.
    own = [name for name, one in given.items() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert own == positional
    defaults = dict(zip(positional[::-1], [ast.literal_eval(one) for one in expected.defaults[::-1]], strict=False))
    defaults |= dict(zip(keywords, [ast.literal_eval(one) for one in expected.kw_defaults if one], strict=True))
    for name in (*positional, *keywords):
        assert given[name].default == defaults.get(name, inspect.Parameter.empty), name
    for name in set(given) - set(positional):
        assert given[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert given[name].default is not inspect.Parameter.empty
    assert row.returned == ast.unparse(function.returns)


@pytest.mark.spec("DOC-04")
def test_every_operation_says_what_it_gives():
    for row in rows():
        text = inspect.getdoc(row.target.steps) or ""
        assert text.split("\n")[0].endswith("."), f"{row.component} has no first line"


@pytest.mark.spec("DOC-04")
def test_the_generated_pages_are_fresh():
    assert not stale(), "run `python -m tests.reference`"
