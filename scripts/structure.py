"""How large the pieces of the code are: `python -m scripts.structure [FOLDER]`, for docs/reports/structure.md."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from scripts.reference.scan import SHIPPED


def functions(tree: ast.Module) -> list[tuple[int, str]]:
    """Return length in lines and name of each function and method."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = (node for node in ast.walk(tree) if isinstance(node, kinds))
    return [((node.end_lineno or node.lineno) - node.lineno + 1, node.name) for node in nodes]


def main() -> None:
    """Print how many modules, lines and functions there are, and the longest of each."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    modules = {
        path.relative_to(root): path.read_text(encoding="utf-8")
        for package in SHIPPED
        for path in sorted((root / package).rglob("*.py"))
    }
    lengths = sorted(((text.count("\n"), str(path)) for path, text in modules.items()), reverse=True)
    per_function = sorted(
        ((length, f"{path}:{name}") for path, text in modules.items() for length, name in functions(ast.parse(text))),
        reverse=True,
    )
    print(f"modules {len(modules)}, lines {sum(length for length, _ in lengths)}, functions {len(per_function)}")
    print("longest modules: " + ", ".join(f"{path} {length}" for length, path in lengths[:3]))
    print("longest functions: " + ", ".join(f"{name} {length}" for length, name in per_function[:3]))
    print(f"functions of more than 50 lines: {sum(length > 50 for length, _ in per_function)}")  # noqa: PLR2004 - a page
    readme = (root / "README.md").read_text(encoding="utf-8")
    print(f"words of README: {len(readme.split())}")


if __name__ == "__main__":
    main()
