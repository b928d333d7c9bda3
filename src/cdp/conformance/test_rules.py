"""Every rule as a test, on each platform that --platform names (`local` where none is)."""
from __future__ import annotations

from typing import Any

from cdp.conformance import RULES, platform


def pytest_generate_tests(metafunc: Any) -> None:
    names = metafunc.config.getoption("--platform") or ["local"]
    metafunc.parametrize("name", names)
    metafunc.parametrize("rule", RULES)


def test_rule(rule: str, name: str) -> None:
    RULES[rule].run(platform(name))
