"""Disjoint sets: what is connected to what."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Unions(Generic[T]):
    """Sets that grow together, in the order in which their members first came.

    Example:
        >>> unions = Unions()
        >>> unions.join("a", "b"); unions.join("c", "b"); unions.add("d")
        >>> unions.sets()
        [['a', 'b', 'c'], ['d']]
    """

    def __init__(self) -> None:
        self._parent: dict[T, T] = {}

    def __contains__(self, member: object) -> bool:
        return member in self._parent

    def add(self, member: T) -> None:
        """Add a member that is alone unless it is already there."""
        self._parent.setdefault(member, member)

    def root(self, member: T) -> T:
        """The member that stands for the whole set."""
        self.add(member)
        path = []
        while self._parent[member] != member:
            path.append(member)
            member = self._parent[member]
        for passed in path:
            self._parent[passed] = member
        return member

    def join(self, left: T, right: T) -> None:
        """Make one set of two."""
        self._parent[self.root(right)] = self.root(left)

    def join_all(self, members: Iterable[T]) -> None:
        """Make one set of all members given."""
        first, *rest = members
        for member in rest:
            self.join(first, member)

    def sets(self) -> list[list[T]]:
        """All sets."""
        found: dict[T, list[T]] = {}
        for member in list(self._parent):
            found.setdefault(self.root(member), []).append(member)
        return list(found.values())
