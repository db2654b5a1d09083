"""The floor plan: a room imports from lower rooms alone, by their faces; a name is one thing.

A check yields its offences, which begin with file and line; each check is tried, too, on a copy
of the source in which its rule is broken on purpose.
"""

import ast
import shutil
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest
from house import House, defined, module_of, parsed, room_of
from paths import ROOT

import pid_lens

PLAN = """
0 per_object
1 inputs records
2 model reads results demo
3 interventions readouts estimators truth
4 forward testing
5 lens scoring adapters
6 api self_check deprecated
7 pid_lens
8 cli
"""  # a room is a folder or a module of pid_lens; pid_lens itself is its __init__.py
FLOORS = {room: int(line[0]) for line in PLAN.splitlines() for room in line.split()[1:]}
TO_COME = ["datasets", "sweeping", "studies", "explorer"]
LINES, MODULES_AT_THE_TOP = 400, 10

DEFINED_TWICE = {
    # The Adapter protocol: what each framework, and none, answers to the same questions.
    "dissect forward_without_hooks guard_user_hooks is_user_call name_of": (
        "adapters",
        "pid_lens/model",
        "pid_lens/forward",
    ),
    # The same four deeds in each framework's idiom: calls in a trace, lists of hooks.
    "knockout noise readout intervene": ("adapters", "pid_lens/forward"),
    # What a command calls.
    "main": ("pid_lens",),
}
"""Public names -> the folders of which several files may define them."""

PUBLIC = """
batch calibrate collect tune region dissect spectrum intervene check decompose compare
Lens Batch Spans Reads Spectrum Curve Moments Donors Anatomy
Noise Mean Zero Remove Resample Knockout
LogitLens TunedLens Pooled
BROJA GaussianPID FlowPID BATCH InfoNCE ContextualContribution ConceptBottleneck
demo truth estimators adapters testing
"""


def upward_imports(house):
    for file in house.text:
        if (room := room_of(module_of(file))) not in FLOORS:
            yield f"{file}:1: the room {room} has no floor: give it one in PLAN"
    for file, room, (line, *_), other in house.across_rooms():
        if FLOORS.get(other, 9) >= FLOORS.get(room, 9):
            said = f"{room} (floor {FLOORS.get(room)}) imports {other} ({FLOORS.get(other)})"
            yield f"{file}:{line}: {said}: move what it needs to a room below both"


def circles_of_files(house):
    files = {
        file: {house.file[one.module] for one in imports if one.module in house.file} - {file}
        for file, imports in house.imports.items()
    }  # a face imports its room's files, so that a circle through a face is one of files
    while True:
        try:
            return TopologicalSorter(files).prepare()
        except CycleError as error:
            circle = error.args[1][:0:-1]
            first = circle.index(min(circle))
            circle = [*circle[first:], *circle[: first + 1]]
            yield f"{circle[0]}:1: a circle, cut one arrow of it: {' imports '.join(circle)}"
            for importer, imported in pairwise(circle):
                files[importer].discard(imported)


def imports_past_a_face(house):
    for file, _, (line, module, name, alias), other in house.across_rooms():
        face = ".".join(dict.fromkeys(["pid_lens", other]))
        if module != face:
            yield f"{file}:{line}: imports of {module}: import from the room's face, {face}"
        elif module in house.file:
            names = {name} if name else attributes_of(parsed(house.text[file]), alias)
            shown = house.exported(face) or [one for one in names if not one.startswith("_")]
            for one in sorted(names - {*shown, "__version__"}):
                yield f"{file}:{line}: {face} does not export {one}: list it in __all__"


def private_imports(house):
    for file, imports in house.imports.items():
        for line, module, name, _ in imports:
            near = module in house.file and room_of(module) == room_of(module_of(file))
            if near and name and name.startswith("_"):
                yield f"{file}:{line}: {name} is private in {module}: name it for all, or keep out"


def attributes_of(tree, module):
    """What is looked up in a module that was imported whole."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if ast.unparse(node.value) == module}


def long_files(house):
    for file, text in house.text.items():
        if (lines := text.count("\n")) > LINES:
            yield f"{file}:{LINES + 1}: {lines} lines, at most {LINES}: split it by its nouns"


def names_defined_twice(house):
    places = {}
    for file, text in house.text.items():
        for name, node in defined(text).items():
            if not name.startswith("_") and not isinstance(node, ast.Import | ast.ImportFrom):
                places.setdefault(name, {})[file] = node.lineno
    allowed = {one: folders for names, folders in DEFINED_TWICE.items() for one in names.split()}
    for name, found in places.items():
        folders = allowed.get(name, ())
        if len(found) > 1 and not (folders and all(file.startswith(folders) for file in found)):
            where = " and ".join(f"{file}:{line}" for file, line in found.items())
            yield f"{where}: {name} is defined {len(found)} times: rename it, or import it"


def files_named_like_functions(house):
    for module in [*house.file, *(f"pid_lens.{room}" for room in TO_COME)]:
        *above, name = module.split(".")
        for depth in range(min(2, len(above)) or 1, len(above) + 1):
            face = ".".join(above[:depth])
            exported = name in house.exported(face)
            if exported and isinstance(house.definition(face, name), ast.FunctionDef):
                yield f"{house.file.get(module, module)}:1: named like {face}.{name}(): say a noun"


def crowded_top(house):
    top = [file for file in house.text if file.startswith("pid_lens/") and file.count("/") == 1]
    if len(top) > MODULES_AT_THE_TOP:
        yield f"pid_lens:1: {len(top)} modules at the top, at most {MODULES_AT_THE_TOP}"


def faces_that_say_too_little(house):
    for module, file in house.file.items():
        if not file.endswith("__init__.py"):
            continue
        if not ast.get_docstring(parsed(house.text[file])):
            yield f"{file}:1: no docstring: say what comes in and what goes out"
        room = module.count(".") < 2 and module != "pid_lens.adapters"  # each adapter has a face
        if room and not house.exported(module):
            yield f"{file}:1: no __all__: list what other rooms may import"
        for name in house.exported(module):
            if not house.definition(module, name) and f"{module}.{name}" not in house.file:
                yield f"{file}:1: __all__ lists {name}, which is not there"


def unlisted_packages(house):
    setup = ConfigParser()
    setup.read(house.root / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    there = {module for module, file in house.file.items() if file.endswith("__init__.py")}
    for package in sorted(listed ^ there):
        said = "is not there" if package in listed else "is not in the list of packages"
        yield f"setup.cfg:1: {package} {said}"


CHECKS = [
    upward_imports,
    circles_of_files,
    imports_past_a_face,
    private_imports,
    long_files,
    names_defined_twice,
    files_named_like_functions,
    crowded_top,
    faces_that_say_too_little,
    unlisted_packages,
]


@pytest.fixture(scope="module")
def house():
    if not (ROOT / "setup.cfg").exists():
        pytest.skip("needs the checkout")
    return House(ROOT)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_is_as_drawn(house, check):
    found = list(check(house))
    assert not found, "\n".join(["", *found])


def test_the_public_names_are_these_and_dir_shows_no_others():
    assert sorted(pid_lens.__all__) == sorted(PUBLIC.split())
    assert dir(pid_lens) == sorted(pid_lens.__all__)


BROKEN = """
imports upwards, or on the same floor
== pid_lens/inputs/new.py
from pid_lens.results import NATS
import pid_lens.results as them
from ..results import NATS
from pid_lens import Lens
if TYPE_CHECKING:
    from pid_lens.results import Spectrum
def new():
    from pid_lens.results import ATOMS
from pid_lens.records import settings_repr
== adapters/new.py
from pid_lens.self_check import check
>> pid_lens/inputs/new.py:1: inputs (floor 1) imports results (2)
>> pid_lens/inputs/new.py:2: inputs (floor 1) imports results (2)
>> pid_lens/inputs/new.py:3: inputs (floor 1) imports results (2)
>> pid_lens/inputs/new.py:4: inputs (floor 1) imports pid_lens (7)
>> pid_lens/inputs/new.py:6: inputs (floor 1) imports results (2)
>> pid_lens/inputs/new.py:8: inputs (floor 1) imports results (2)
>> pid_lens/inputs/new.py:9: inputs (floor 1) imports records (1)
>> adapters/new.py:1: adapters (floor 5) imports self_check (6)

a circle of two files
== pid_lens/inputs/new.py
def new():
    from pid_lens.inputs.newer import newer
== pid_lens/inputs/newer.py
from pid_lens.inputs import new as older
>> pid_lens/inputs/new.py:1: a circle, cut one arrow of it: pid_lens/inputs/new.py imports

a circle through a face
== pid_lens/truth/new.py
from pid_lens.truth import gate
== pid_lens/truth/__init__.py
from pid_lens.truth.new import new
>> pid_lens/truth/__init__.py:1: a circle, cut one arrow of it: pid_lens/truth/__init__.py imports

imports past a face, of what it does not export, and of what is private
== pid_lens/forward/new.py
from pid_lens.inputs.spans import Spans
from pid_lens.inputs import annotations
from pid_lens.truth import _hidden
from pid_lens.records import _hidden
from pid_lens import truth
truth.gate, truth.gates
from pid_lens.forward.rows import _hidden
>> pid_lens/forward/new.py:1: imports of pid_lens.inputs.spans: import from the room's face
>> pid_lens/forward/new.py:2: pid_lens.inputs does not export annotations
>> pid_lens/forward/new.py:3: pid_lens.truth does not export _hidden
>> pid_lens/forward/new.py:4: pid_lens.records does not export _hidden
>> pid_lens/forward/new.py:5: pid_lens.truth does not export gates
>> pid_lens/forward/new.py:7: _hidden is private in pid_lens.forward.rows

names that two files define
== pid_lens/forward/new.py
class Spans: ...
def main(): ...
NATS: int = 1
== adapters/new.py
def dissect(): ...
def intervene(): ...
== pid_lens/results/new.py
def noise(): ...
>> pid_lens/forward/new.py:1 and pid_lens/inputs/spans.py:
>> pid_lens/forward/new.py:3 and pid_lens/results/atoms.py:
>> adapters/nnsight/

files that are named like functions
== pid_lens/estimators/broja/discrete_pid.py
== pid_lens/estimators/flow/flow_pid/__init__.py
== pid_lens/compare.py
>> pid_lens/estimators/broja/discrete_pid.py:1: named like pid_lens.estimators.discrete_pid()
>> pid_lens/estimators/flow/flow_pid/__init__.py:1: named like pid_lens.estimators.flow_pid()
>> pid_lens/estimators/flow/flow_pid/__init__.py:1: no docstring
>> setup.cfg:1: pid_lens.estimators.flow.flow_pid is not in the list of packages
>> pid_lens/compare.py:1: named like pid_lens.compare()
>> pid_lens/compare.py:1: the room compare has no floor

rooms that say nothing, or too much
== pid_lens/attic/__init__.py
== pid_lens/cellar/__init__.py
'A room.'
__all__ = ["nothing"]
>> pid_lens/attic/__init__.py:1: the room attic has no floor
>> pid_lens/attic/__init__.py:1: no docstring
>> pid_lens/attic/__init__.py:1: no __all__
>> pid_lens/cellar/__init__.py:1: the room cellar has no floor
>> pid_lens/cellar/__init__.py:1: __all__ lists nothing, which is not there
>> setup.cfg:1: pid_lens.attic is not in the list of packages
>> setup.cfg:1: pid_lens.cellar is not in the list of packages
"""
"""Texts that are added to files (==), and how the offences begin that are then found (>>)."""


@pytest.mark.parametrize("case", BROKEN.strip().split("\n\n"), ids=lambda c: c.split("\n")[0])
def test_what_breaks_a_rule_is_named(house, case, tmp_path):
    edits, *offences = case.split("\n>> ")
    edits = dict(edit.partition("\n")[::2] for edit in edits.split("\n== ")[1:])
    found = offences_of(house, edits, tmp_path)
    assert len(found) == len(offences), found
    for offence in offences:
        assert [one for one in found if one.startswith(offence)], (offence, found)


def test_a_room_to_come_is_named_like_no_function(house, monkeypatch):
    monkeypatch.setitem(globals(), "TO_COME", ["tune"])
    assert list(files_named_like_functions(house)) == [
        "pid_lens.tune:1: named like pid_lens.tune(): say a noun"
    ]


def test_what_is_too_much_is_named(house, tmp_path):
    long = {"adapters/whole.py": "\n" * (LINES - 1), "adapters/long.py": "\n" * LINES}
    many = {f"pid_lens/new_{n}.py": "" for n in range(MODULES_AT_THE_TOP)}
    found = offences_of(house, long | many, tmp_path)
    assert len(found) == 2 + len(many)
    assert "adapters/long.py:401: 401 lines, at most 400: split it by its nouns" in found
    assert found[-1].endswith(f"modules at the top, at most {MODULES_AT_THE_TOP}")


def offences_of(house, edits, root):
    """What the checks say of a copy to which texts are added, and do not say of the house."""
    added = {file: f"{house.text.get(file, '')}{text}\n" for file, text in edits.items()}
    for file, text in (house.text | added).items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    shutil.copy(house.root / "setup.cfg", root)
    copy = House(root)
    return [one for check in CHECKS for one in check(copy) if one not in {*check(house)}]
