"""The router is light: it needs no model, and loads none of the libraries that a model needs."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "tokenizers", "numpy", "scipy", "sklearn", "matplotlib")


def test_route_loads_no_library_of_the_models() -> None:
    code = f"""
import sys
import loggpt_stream.cli, loggpt_stream.commands.route
print([name for name in {HEAVY} if name in sys.modules])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
