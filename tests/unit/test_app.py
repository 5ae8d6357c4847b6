"""The application and its tasks, as far as they need no database."""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
import textwrap
from datetime import timedelta

import pytest

import celers.app
from celers import App, ConfigurationError, Exponential, Fixed, RetryPolicy, ValidationError
from celers.app import DEFAULT_URL, load_app
from celers.task import task_name


@pytest.fixture
def app() -> App:
    return App("mysql://nobody@127.0.0.1:1/none")


def double(number: int, *, times: int = 2) -> int:
    return number * times


def test_a_task_is_still_the_function(app):
    task = app.task(double)
    assert task(3) == 6
    assert task(3, times=3) == 9
    assert task.__name__ == "double"
    assert task.__wrapped__ is double
    assert task.name == f"{__name__}.double"
    assert app.tasks == {task.name: task}


def test_a_coroutine_function_is_one_too(app):
    @app.task
    async def later(number: int) -> int:
        return number

    assert later.is_async
    assert asyncio.run(later(4)) == 4


def test_two_functions_cannot_have_one_name(app):
    app.task(double)
    with pytest.raises(ConfigurationError, match="double"):
        app.task(double)
    app.task(name="another")(double)
    with pytest.raises(ConfigurationError, match="another"):
        app.task(name="another")(print)


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": " x"},
        {"queue": "x" * 256},
        {"priority": 2**31},
        {"max_retries": -1},
        {"max_retries": 1001},
        {"timeout": 0},
        {"timeout": -1},
        {"retry": 3},
        {"ignore_result": 1},
        {"retry": RetryPolicy(5), "max_retries": 4},
    ],
)
def test_bad_options_are_refused_at_once(app, options):
    with pytest.raises(ValidationError):
        app.task(**options)(double)


def test_attributes_of_the_function_do_not_hide_those_of_the_task(app):
    def odd():
        return 1

    odd.name, odd.queue, odd.app = "x", "y", "z"
    task = app.task(odd)
    assert (task.queue, task.app) == ("default", app)
    assert task.name.endswith("odd")


def test_what_is_no_function_is_refused(app):
    with pytest.raises(ConfigurationError):
        app.task()(3)


def test_options_of_a_task(app):
    task = app.task(name="x", queue="q", priority=5, max_retries=7, retry=Fixed(2), timeout=timedelta(seconds=1.5))(
        double
    )
    assert (task.queue, task.priority, task.max_retries, task.timeout_secs) == ("q", 5, 7, 2)
    assert task.retry_policy == RetryPolicy(7, Fixed(2))
    plain = app.task(name="y")(double)
    assert (plain.queue, plain.priority, plain.max_retries, plain.retry_policy) == ("default", 0, 3, None)
    own = RetryPolicy(9, Exponential(1, 2.0, 60))
    assert app.task(name="z", retry=own)(double).max_retries == 9
    assert app.queues() == ("default", "q")


@pytest.mark.parametrize(
    ("args", "kwargs"), [((), {}), ((1, 2), {}), ((1,), {"number": 2}), ((1,), {"unknown": 1}), ((), {"times": 1})]
)
def test_arguments_are_checked_where_the_call_is_made(app, args, kwargs):
    task = app.task(double)
    with pytest.raises(TypeError, match="double"):
        task.enqueue(*args, **kwargs)


def test_arguments_of_plain_functions_are_counted(app):
    @app.task
    def plain(a, b=2):
        return a + b

    with pytest.raises(TypeError):
        plain.enqueue()
    with pytest.raises(TypeError):
        plain.enqueue(1, 2, 3)
    for good in ((1,), (1, 2)):
        plain.check_arguments(good, {})


def test_many_calls_are_tuples(app):
    task = app.task(double)
    with pytest.raises(ValidationError, match="tuples"):
        task.enqueue_many([1, 2])
    with pytest.raises(ValidationError, match="id"):
        task.using(id="01234567-89ab-7def-8123-456789abcdef").enqueue_many([(1,)])


def test_contradictions_are_refused(app):
    task = app.task(double)
    with pytest.raises(ValidationError, match="delay"):
        task.using(delay=5).enqueue_at(1_900_000_000, 1)
    with pytest.raises(ValidationError, match="connection"):
        asyncio.run(task.using(connection=object()).aenqueue(1))
    for options in ({"queue": ""}, {"priority": "1"}, {"delay": -1}, {"id": "x"}):
        with pytest.raises(ValidationError):
            task.using(**options)


def test_tasks_are_pickled_by_name(app):
    task = app.task(module_level)
    globals()["module_level"] = task
    try:
        assert pickle.loads(pickle.dumps(task)) is task
    finally:
        globals()["module_level"] = module_level_function


def module_level() -> None:
    """Replaced by its task in the test above."""


module_level_function = module_level


@pytest.mark.parametrize(
    "options",
    [{"url": "nonsense"}, {"default_queue": ""}, {"serializer": "yaml"}, {"accept": ["x"]}, {"table_prefix": "a-b"}],
)
def test_bad_settings_of_an_application(options):
    with pytest.raises((ConfigurationError, ValidationError)):
        App(**options)


def test_pickle_is_accepted_only_when_named():
    assert App().accept == {"json"}
    assert App(serializer="msgpack").accept == {"json", "msgpack"}
    assert App(serializer="pickle").accept == {"json"}
    assert App(serializer="pickle", accept=["pickle"]).accept == {"pickle"}


def test_where_the_url_comes_from(monkeypatch, caplog):
    monkeypatch.setenv("CELERS_URL", "mysql://env@h/env")
    monkeypatch.setattr(celers.app, "_warned", False)
    assert App("mysql://own@h/own").resolve_url("mysql://given@h/given") == "mysql://given@h/given"
    assert App("mysql://own@h/own").resolve_url() == "mysql://own@h/own"
    assert App().resolve_url() == "mysql://env@h/env"
    monkeypatch.delenv("CELERS_URL")
    with caplog.at_level(logging.WARNING):
        assert App().resolve_url() == DEFAULT_URL
        assert App().resolve_url() == DEFAULT_URL
    assert len(caplog.records) == 1


def test_names_in_the_main_module(tmp_path):
    text = textwrap.dedent(
        """
        from celers import App
        app = App()
        @app.task
        def work(): ...
        class Box:
            @staticmethod
            def inner(): ...
        app.task(Box.inner)
        print(*app.tasks)
        """
    )
    package = tmp_path / "parcel"
    package.mkdir()
    (package / "jobs.py").write_text(text)
    as_file = subprocess.check_output([sys.executable, package / "jobs.py"], text=True)
    assert as_file.split() == ["jobs.work", "jobs.Box.inner"]
    as_module = subprocess.check_output([sys.executable, "-m", "parcel.jobs"], text=True, cwd=tmp_path)
    assert as_module.split() == ["parcel.jobs.work", "parcel.jobs.Box.inner"]


def test_names_of_odd_callables():
    class Callable:
        def __call__(self):
            return None

    assert task_name(Callable()).endswith("Callable")


def test_applications_are_found_by_name(tmp_path, monkeypatch):
    (tmp_path / "shop_jobs.py").write_text("from celers import App\napp = App()\nother = App()\nnumber = 3\n")
    (tmp_path / "broken_jobs.py").write_text("import no_such_thing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert isinstance(load_app("shop_jobs"), App)
    assert load_app("shop_jobs:app") is not load_app("shop_jobs:other")
    for place in ("shop_jobs:number", "shop_jobs:nothing", "no_such_jobs:app", "", ":app"):
        with pytest.raises(ConfigurationError):
            load_app(place)
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        load_app("broken_jobs")
