"""The long tests measure as they go: what they found is printed as one table at the end."""

import pytest

FIGURES = pytest.StashKey[dict[str, str]]()


@pytest.fixture(scope="session")
def figures(request) -> dict[str, str]:
    """What was measured → the value with its unit; goes into the table."""
    return request.config.stash.setdefault(FIGURES, {})


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(FIGURES, {})
    if not found:
        return
    terminalreporter.section("what was measured")
    wide = max(map(len, found))
    for what, value in found.items():
        terminalreporter.write_line(f"{what:<{wide}}  {value}")
