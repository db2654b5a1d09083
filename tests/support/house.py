"""The source of a checkout as rooms: what each file imports, defines and exports, by its text."""

import ast
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple


class Import(NamedTuple):
    """One imported name: its line, its module, the name (None: the module itself), its alias."""

    line: int
    module: str
    name: str | None
    alias: str


@dataclass(frozen=True)
class House:
    """The source of a checkout: files, and what they import, define and export."""

    root: Path

    @cached_property
    def text(self):
        """File -> its text."""
        paths = [*self.root.glob("pid_lens/**/*.py"), *self.root.glob("adapters/**/*.py")]
        return {path.relative_to(self.root).as_posix(): path.read_text() for path in sorted(paths)}

    @cached_property
    def file(self):
        """Module -> its file."""
        return {module_of(file): file for file in self.text}

    @cached_property
    def imports(self):
        """File -> all that it imports: at any depth, for types or not."""
        return {file: list(self._imports(file)) for file in self.text}

    def _imports(self, file):
        package = module_of(file).split(".")[: None if file.endswith("__init__.py") else -1]
        for node in ast.walk(parsed(self.text[file])):
            if isinstance(node, ast.Import):
                for one in node.names:
                    yield Import(node.lineno, one.name, None, one.asname or one.name)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*above, *filter(None, [node.module])])
                for one in node.names:
                    whole, alias = f"{module}.{one.name}", one.asname or one.name
                    found = (whole, None) if whole in self.file else (module, one.name)
                    yield Import(node.lineno, *found, alias)

    def across_rooms(self):
        """File, its room, an import of another room, that room."""
        for file, imports in self.imports.items():
            room = room_of(module_of(file))
            for one in imports:
                if one.module.split(".")[0] == "pid_lens" and room_of(one.module) != room:
                    yield file, room, one, room_of(one.module)

    def exported(self, module):
        """What `__all__` lists, nothing where there is none."""
        node = defined(self.text[self.file[module]]).get("__all__")
        return ast.literal_eval(node.value) if node else []

    def definition(self, module, name):
        """What defines a name, through however many faces it came; None where nothing does."""
        node = defined(self.text[self.file[module]]).get(name)
        if isinstance(node, ast.ImportFrom) and f"{node.module}.{name}" in self.file:
            return node  # a module
        if isinstance(node, ast.ImportFrom) and node.module in self.file:
            return self.definition(node.module, name)
        return node


parsed = lru_cache(None)(ast.parse)  # by text: what copies have in common is parsed once


@lru_cache(None)
def defined(text):
    """Name -> the statement at a module's top that defines or imports it."""
    found = {}
    for node in parsed(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {one.asname or one.name: node for one in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id: node for name in targets if isinstance(name, ast.Name)}
    return found


def module_of(file):
    path = file if file.startswith("pid_lens/") else f"pid_lens/{file}"
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def room_of(module):
    return [*module.split("."), "pid_lens"][1]
