"""`make reference`: write every page, and say which of them changed."""

from __future__ import annotations

from scripts.reference.pages import FOLDER, PAGES

FOLDER.mkdir(parents=True, exist_ok=True)
for name, make in PAGES.items():
    path, text = FOLDER / name, make()
    news = not path.exists() or path.read_text(encoding="utf-8") != text
    path.write_text(text, encoding="utf-8")
    print(f"docs/reference/{name}: {'written' if news else 'as it was'}")
