"""Runs one function of a test module in namespaces of its own: see ``conftest.py``.

Usage: ``node_namespace.py FILE FUNCTION JSON_ARGUMENTS``, as the first process of new namespaces.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
import warnings
from pathlib import Path


def main() -> None:
    file, function_name, arguments = sys.argv[1:]
    warnings.simplefilter("error")
    sys.path.insert(0, str(Path(__file__).parents[1]))  # as pytest has it
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, function_name)
    positional = [
        Path(value) if value.startswith("/") else value for value in json.loads(arguments)
    ]
    result = function(*positional)
    if inspect.iscoroutine(result):
        asyncio.run(result)


if __name__ == "__main__":
    main()
