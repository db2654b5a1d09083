"""The words of docstrings, comments and messages: the field's terms, one word a concept.

A check yields its offences, which begin with file and line; each check is tried, too, on a source
in which its rule is broken on purpose.
"""

import ast
import inspect
import io
import re
import tokenize
from dataclasses import fields, is_dataclass
from doctest import SKIP, DocTestParser
from functools import lru_cache
from itertools import groupby, pairwise

import pytest
from house import House, defined, parsed
from paths import ROOT

import pid_lens

DIALECT = {
    r"hid(e|es|ing)": "ablate an input, or mask attention",
    r"hidden(?![\s_-]+(state|layer|unit|size|width|dimension))": (
        "ablated, masked, or held out: a hidden state is an activation"
    ),
    r"closed(?![\s-]+(form|interval)|::)": "masked, of attention",
    r"closes|closing": "masks, of attention",
    r"(some|no|any|every)body|(some|any|every)one|who(so|m)?ever": "say who it is: the user",
    r"whatever|whichever": "what, any, either: say which",
    r"told": "given, known, determined by",
    r"tells?~(of|about)|telling": "carries information about, determines, reports",
    r"look(s|ed|ing)?~at(?!~the~jackknife)": "attends to, of attention; reads, of code",
    r"(may|can|cannot|must|does|do|did|will)~(not~)?see": "attend to",
    r"(token|image|text|question|model|position|quer(y|ie))s?~sees?": (
        "attends to; of a model: is given"
    ),
    r"belongs?~into|kept~beside|lest": "belongs in; kept with; so that not",
}
"""Words that are not used (~ a space or the end of a line), and what the field says instead."""
FIELD = {
    "activation patching": "pid_lens/interventions/resample.py",
    "resample ablation": "pid_lens/interventions/resample.py",
    "zero ablation": "pid_lens/interventions/ablations.py",
    "mean ablation": "pid_lens/interventions/ablations.py",
    "attention knockout": "pid_lens/interventions/knockout.py",
    "query positions": "pid_lens/interventions/protocol.py",
    "key positions": "pid_lens/interventions/protocol.py",
    "attention mask": "pid_lens/forward/attention_mask.py",
    "residual stream": "pid_lens/forward/layer_answers.py",
    "logit lens": "pid_lens/readouts/logit_lens.py",
    "unembedding": "pid_lens/readouts/logit_lens.py",
    "tuned lens": "pid_lens/readouts/tuned_lens.py",
    "hidden states": "pid_lens/readouts/pooled.py",
    "causal mask": "pid_lens/model/masks.py",
    "hook point": "adapters/transformer_lens/hook_points.py",
    "interior point": "pid_lens/estimators/broja/solver/interior_point.py",
    "central path": "pid_lens/estimators/broja/solver/central_path.py",
    "cross-fitting": "pid_lens/estimators/broja/cross_fit.py",
    "raking": "pid_lens/estimators/broja/marginal_repair.py",
    "normalizing flow": "pid_lens/estimators/flow/gaussianise.py",
    "held-out fold": "pid_lens/estimators/infonce/held_out.py",
}
"""What a user greps -> the file that does it, and whose docstrings say so."""
VERBS = """
Ablate Add Append Apply Assign Attach Average Backtrack Begin Bind Block Bootstrap Bound Build
Call Capture Check Choose Clamp Collect Compare Complete Compose Compute Concatenate Configure
Convert Copy Count Create Cross-fit Cut Decompose Describe Diagonalise Differentiate Disable
Divide Do Draw Drop Embed Encode End Estimate Evaluate Exchange Extend Factor Fill Find Fit
Flip Forget Format Gather Group Guard Hand Hash Initialise Integrate Iterate Join Keep Knock
Label Leave Let List Load Locate Look Lower Make Map Mask Maximise Measure Merge Minimise Move
Multiply Name Negate Normalise Open Order Parse Patch Pickle Place Plot Pool Predict Prepare
Project Put Quantise Raise Rake Read Recompute Record Reduce Register Regress Reject Rename
Render Renumber Reorder Repeat Replace Require Reserve Resolve Restrict Return Rotate Round Run
Scale Scatter Search See Select Serialise Set Shift Show Shrink Slice Solve Split Stack Start
Store Strip Subtract Sum Swap Tabulate Take Tokenise Train Translate Try Update Validate Warn
Whiten Work Wrap Write Yield
"""
"""What the docstring of a function begins with; a new one is added here."""


@lru_cache(None)
def docstrings(text):
    """Each node that may have a docstring, with it; strings below fields and constants aside."""
    nodes = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        (node, doc)
        for node in ast.walk(parsed(text))
        if isinstance(node, nodes) and (doc := ast.get_docstring(node, clean=False))
    ]


def prose(text):
    """Line and text of all that is written for people: strings of several words, comments."""
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.lineno, node.value
    lines = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for _, block in groupby(enumerate(lines), key=lambda found: found[1] - found[0]):
        numbers = [line for _, line in block]  # consecutive lines are one comment
        yield numbers[0], "\n".join(lines[line] for line in numbers)


def words_of_a_dialect(house):
    texts = [(file, *said) for file, text in house.text.items() for said in prose(text)]
    readme = house.root / "README.md"
    for file, line, said in [*texts, ("README.md", 1, readme.read_text())]:
        said = re.sub(r"(?m)^( +)hidden:", r"\1      :", said)  # a parameter of that name
        for words, instead in DIALECT.items():
            spaced = words.replace("~", r"[\s#]+")
            for found in re.finditer(rf"\b({spaced})\b", said, re.IGNORECASE):
                at = line + said.count("\n", 0, found.start())
                yield f"{file}:{at}: {found[0]!r}: {instead}"


def functions_without_a_verb(house):
    for file, text in house.text.items():
        for node, doc in docstrings(text):
            if isinstance(node, FUNCTIONS) and not is_property(node):
                first, second = re.match(r"\W*([\w-]*)\W*(\w*)", doc).groups()
                if first not in VERBS.split() or second in ("of", "is", "are"):
                    where = f"{file}:{node.lineno}: {node.name}"
                    yield f"{where} begins with {first!r}: begin with a verb that is in VERBS"


FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def is_property(node):
    return any(ast.unparse(one).endswith("property") for one in node.decorator_list)


def classes(house):
    for file, text in house.text.items():
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.ClassDef):
                yield file, node


def fields_below_which_help_does_not_look(house):
    for file, node in classes(house):
        for field, below in pairwise(node.body):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign | ast.Assign) and is_text:
                where = f"{file}:{below.lineno}: a string below a field of {node.name}"
                yield f"{where}: say it under Attributes in the docstring of the class"


def fields_without_a_word(house):
    for file, node in {id(node): (file, node) for file, node in exported(house)}.values():
        if isinstance(node, ast.ClassDef) and is_record(node):
            shown = attributes_shown(ast.get_docstring(node) or "")
            for field in node.body:
                name = getattr(getattr(field, "target", None), "id", "_")
                if not name.startswith("_") and name not in shown:
                    yield f"{file}:{field.lineno}: {node.name}.{name} is not under Attributes"


def attributes_that_are_no_fields(house):
    by_name = {node.name: node for _, node in classes(house)}
    for file, node in classes(house):
        gone = attributes_shown(ast.get_docstring(node) or "") - names_of(node, by_name)
        for name in sorted(gone):
            yield f"{file}:{node.lineno}: {node.name} has no {name}, which is under Attributes"


def names_of(node, by_name):
    """Fields, properties and what is set on self, of a class and of its bases in the house."""
    found = {getattr(getattr(one, "target", None), "id", "") for one in node.body}
    for one in ast.walk(node):
        if isinstance(one, FUNCTIONS):
            found.add(one.name)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store):
            found.add(one.attr)
    for base in node.bases:
        above = by_name.get(ast.unparse(base).split("[")[0].split(".")[-1])
        found |= names_of(above, by_name) if above else set()
    return found


def is_record(node):
    made = [ast.unparse(one) for one in (*node.decorator_list, *node.bases)]
    return any("dataclass" in one or "NamedTuple" in one for one in made)


def attributes_shown(doc):
    """The names under Attributes in a docstring; several may share a line, a comma between."""
    section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)*)", inspect.cleandoc(doc), re.MULTILINE)
    lines = re.findall(r"^    (\w[\w, ]*):", section[1] if section else "", re.MULTILINE)
    return {name.strip() for line in lines for name in line.split(",")}


def exported(house):
    """File and definition of all that a face exports or a module at the top defines."""
    homes = {id(node): file for file, text in house.text.items() for node in parsed(text).body}
    for module, file in house.file.items():
        names = house.exported(module)
        if module.count(".") == 1 and not file.endswith("__init__.py"):
            names = [name for name in defined(house.text[file]) if not name.startswith("_")]
        for name in names:
            node = house.definition(module, name)
            if isinstance(node, FUNCTIONS | ast.ClassDef):
                yield homes[id(node)], node


def exported_names_without_an_example(house):
    for file, node in dict.fromkeys(exported(house)):
        examples = DocTestParser().get_examples(ast.get_docstring(node) or "")
        if not any(one.want.strip() and SKIP not in one.options for one in examples):
            yield f"{file}:{node.lineno}: {node.name} has no example that shows something"


def errors_without_a_word(house):
    for file, node in dict.fromkeys(exported(house)):
        makers = [node]
        if isinstance(node, ast.ClassDef):
            makers = [one for one in node.body if getattr(one, "name", "") in MAKERS]
        raised = {
            ast.unparse(one.exc).split("(")[0]
            for maker in makers
            for one in ast.walk(maker)
            if isinstance(one, ast.Raise) and isinstance(one.exc, ast.Call)
        }
        if raised and "Raises:" not in (ast.get_docstring(node) or ""):
            said = f"{node.name} raises {', '.join(sorted(raised))}"
            yield f"{file}:{node.lineno}: {said}, and its docstring has no Raises"


MAKERS = "__init__", "__post_init__"


def terms_that_lead_nowhere(house):
    for term, file in FIELD.items():
        said = " ".join(doc for _, doc in docstrings(house.text[file]))
        if term not in " ".join(said.lower().split()):
            yield f"{file}:1: no docstring says {term!r}, which a user greps"


CHECKS = [
    words_of_a_dialect,
    functions_without_a_verb,
    fields_below_which_help_does_not_look,
    fields_without_a_word,
    attributes_that_are_no_fields,
    exported_names_without_an_example,
    errors_without_a_word,
    terms_that_lead_nowhere,
]


@pytest.fixture(scope="module")
def house():
    if not (ROOT / "setup.cfg").exists():
        pytest.skip("needs the checkout")
    return House(ROOT)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_words_are_the_fields(house, check):
    found = list(check(house))
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("name", pid_lens.__all__)
def test_help_of_a_public_class_shows_every_field(name):
    found = getattr(pid_lens, name)
    if is_dataclass(found):
        names = {field.name for field in fields(found) if not field.name.startswith("_")}
        assert names <= attributes_shown(found.__doc__)


BROKEN = """
words of a dialect, in docstrings, messages and comments
== pid_lens/inputs/new.py
'''A span that is hidden.
To the eye, closed.
'''
raise ValueError(f'{1} spans tell of it')  # so that nobody looks at it
# so that the text may not
# see the image
ALLOWED = '''hidden
    states in closed form, hidden_size, hidden layers, to tell one by one'''
def new(hidden):
    '''Return a width.
    Args:
        hidden: width.
    '''
== README.md
Whoever reads this.
>> pid_lens/inputs/new.py:1: 'hidden': ablated, masked
>> pid_lens/inputs/new.py:2: 'closed': masked
>> pid_lens/inputs/new.py:4: 'tell of': carries information about
>> pid_lens/inputs/new.py:4: 'nobody': say who it is
>> pid_lens/inputs/new.py:4: 'looks at': attends to
>> pid_lens/inputs/new.py:5: 'may not\\n# see': attend to
>> README.md:1: 'Whoever': say who it is

a function that does not begin with a verb; a property need not
== adapters/new.py
def new():
    'The new one.'
def newer():
    'Returns the newer one.'
async def order():
    'Order of things.'
class New:
    'A new one.'
    @property
    def old(self):
        'What it was.'
>> adapters/new.py:1: new begins with 'The'
>> adapters/new.py:3: newer begins with 'Returns'
>> adapters/new.py:5: order begins with 'Order'

fields that help() does not show
== pid_lens/truth/new.py
@dataclass
class New:
    '''A new one.
    Attributes:
        one, two: numbers.
            three: a line of the same entry.
    '''
    one: int
    two: int
    three: int
    'A third one.'
>> pid_lens/truth/new.py:11: a string below a field of New

an attribute that is no field
== pid_lens/truth/new.py
class Old:
    two: int
    @property
    def three(self): ...
class New(Old):
    '''A new one.
    Attributes:
        one, two: numbers.
        three: a property.
        four: a number of before.
    '''
    def __init__(self):
        self.one = 1
>> pid_lens/truth/new.py:5: New has no four

exported names, and those at the top, without an example, a field, an error
== pid_lens/truth/__init__.py
'A room.'
from pid_lens.truth.new import New, new
__all__ = ["New", "new"]
== pid_lens/truth/new.py
def new():
    'Return a new one.'
@dataclass
class New:
    '''A new one.
    Attributes:
        two: a number.
            one: a line of the same entry.
    '''
    one: int
    two: int
    _three: int
@dataclass
class Own:
    'Not exported: its names say all.'
    one: int
== pid_lens/new.py
def newest():
    '''Return the newest one.
    Example:
        >>> newest()
        >>> newest()  # doctest: +SKIP
        1
    '''
def _own(): ...
class Newest:
    '''A new one.
    Example:
        >>> 1
        1
    '''
    def __init__(self):
        if self: raise TypeError('no')
    def late(self): raise ValueError('later')
>> pid_lens/truth/new.py:4: New has no example
>> pid_lens/truth/new.py:1: new has no example
>> pid_lens/new.py:1: newest has no example
>> pid_lens/new.py:9: Newest raises TypeError
>> pid_lens/truth/new.py:10: New.one is not under Attributes
"""
"""Texts of files (==), and how the offences begin that are then found (>>)."""


def offences_of(texts, root):
    """What the checks say of files with these texts."""
    for file, text in ({"README.md": ""} | texts).items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text)
    return [offence for check in CHECKS for offence in check(House(root))]


@pytest.mark.parametrize("case", BROKEN.strip().split("\n\n"), ids=lambda c: c.split("\n")[0])
def test_what_breaks_a_rule_is_named(case, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "FIELD", {})
    edits, *offences = case.split("\n>> ")
    texts = dict(edit.partition("\n")[::2] for edit in edits.split("\n== ")[1:])
    found = offences_of(texts, tmp_path)
    assert len(found) == len(offences), found
    for offence in offences:
        assert [one for one in found if one.startswith(offence)], (offence, found)


def test_a_term_that_is_gone_is_missed(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "FIELD", {"logit lens": "adapters/new.py"})
    assert offences_of({"adapters/new.py": "# logit lens"}, tmp_path) == [
        "adapters/new.py:1: no docstring says 'logit lens', which a user greps"
    ]
    assert not offences_of({"adapters/new.py": "'''The logit\nlens.'''"}, tmp_path)
