"""Packages that are not needed but where somebody asks for what they do."""

from __future__ import annotations

import importlib


def optional(module: str, package: str | None = None):
    """The module; ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        raise ImportError(f"this needs the package {package}; install it with: pip install {package}") from error
