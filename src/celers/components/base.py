"""Base of the components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from celers.operation import Async, Sync

if TYPE_CHECKING:
    from celers.core import Core

__all__ = ["Component"]

M = TypeVar("M", Sync, Async)


class Component(Generic[M]):
    """Operations of one topic, bound to a runner.

    Parameters
    ----------
    core : Core
        What all components of a broker share.
    runner
        Carries the operations out: blocking, asyncio, or inside somebody's transaction.
    """

    attribute: ClassVar[str] = ""
    """Name of the broker's attribute that holds the component."""

    def __init__(self, core: Core, runner: Any) -> None:
        self.core = core
        self.runner = runner

    @property
    def inside(self) -> bool:
        """Does this component work inside a transaction that somebody else ends?"""
        return bool(self.runner.foreign)
