"""The conformance suite: says whether a platform keeps the contract of cdp.platform.api. Shipped, so that who ports can
run it.

    cdp conformance --platform NAME                       one line a rule
    pytest --pyargs cdp.conformance --platform NAME       the same as tests
    cdp.conformance.RULES["order_per_sender"].run(MyPlatform)

NAME is an installed platform's, or MODULE:CLASS. The suite uses PlatformImpl.nodes() and the public API, nothing else,
so it does not care where the nodes are.
"""
from __future__ import annotations

from cdp.conformance import buffers, messages, requests, routing
from cdp.conformance.kit import RULES, Broken, Rule
from cdp.platform import PlatformImpl, find
from cdpcore.base.errors import NotFound

__all__ = ["RULES", "Broken", "Rule", "buffers", "messages", "platform", "requests", "routing"]


def platform(name: str) -> type[PlatformImpl]:
    """An installed platform, or MODULE:CLASS. Raises NotFound."""
    module, colon, attribute = name.partition(":")
    if not colon:
        return find(name)
    from importlib import import_module

    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise NotFound(f"{name}: {error}", "write MODULE:CLASS, with MODULE on Python's path") from None
    if not (isinstance(found, type) and issubclass(found, PlatformImpl)):
        raise NotFound(f"{name} is no PlatformImpl", "see docs/porting.md")
    return found
