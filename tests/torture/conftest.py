"""The long tests measure as they go: what they found is printed as one table at the end (tests/conftest.py)."""

from collections.abc import Iterator, MutableMapping

import pytest


class Figures(MutableMapping[str, str]):
    """What a test measured, handed to the process that prints as properties of the test: tests run in several processes."""

    def __init__(self, properties: list[tuple[str, object]]):
        self.properties = properties

    def __setitem__(self, what: str, value: object) -> None:
        self.properties.append(("figure", (what, str(value))))

    def __getitem__(self, what: str) -> str:
        return dict(self._all())[what]

    def __delitem__(self, what: str) -> None:
        raise TypeError("what was measured stays measured")

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self._all()))

    def __len__(self) -> int:
        return len(dict(self._all()))

    def _all(self) -> list[tuple[str, str]]:
        return [value for name, value in self.properties if name == "figure"]


@pytest.fixture
def figures(request) -> Figures:
    """What was measured → the value with its unit; goes into the table."""
    return Figures(request.node.user_properties)
