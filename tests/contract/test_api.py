"""Laws that the whole public API follows, whoever wrote which part of it."""

import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest

import arinv
from arinv import models

MODULES = sorted(name for _, name, _ in pkgutil.walk_packages(arinv.__path__, "arinv.") if "__main__" not in name)
PRNG_NAMES = re.compile(r"(.+_)?(rng|rngs|prng|key)(?<!^key)")
ALGORITHMS = ("attacks", "apps", "losses")  # what users call with data and settings; of apps, the algorithms only
ROOT = pathlib.Path(arinv.__file__).parents[1]
LINTERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
APPS = next(c["source_modules"] for c in LINTERS["importlinter"]["contracts"] if "Algorithms" in c["name"])
DESCRIBED = ("attacks", "losses", "metrics", "ops")  # whose docstrings say it all, field by field


def public(*packages):
    """(name, object) of the public functions and classes of arinv, or of some packages of it."""
    for module_name in MODULES:
        package = (module_name + ".").split(".")[1]
        if packages and (package not in packages or (package == "apps" and module_name not in APPS)):
            continue
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            defined_here = getattr(value, "__module__", None) == module_name
            named_so = getattr(value, "__name__", None) == name
            if not name.startswith("_") and callable(value) and defined_here and named_so:
                yield f"{module_name}.{name}", value


def functions(*packages):
    """The same without classes, with their parameters."""
    for name, value in public(*packages):
        if not inspect.isclass(value):
            yield name, value, list(inspect.signature(value).parameters.values())


def breaks_key_law(parameters):
    """The key of a random function is its first parameter, and is called key."""
    names = [parameter.name for parameter in parameters]
    return "key" in names[1:] or any(PRNG_NAMES.fullmatch(name) for name in names)


def breaks_keyword_law(parameters):
    """Settings are passed by name: what is positional has no default and is no number or text."""
    return any(
        p.kind is p.POSITIONAL_OR_KEYWORD and (p.default is not p.empty or p.annotation in (bool, int, float, str))
        for p in parameters
    )


def missing_sections(docstring, parameters, returns):
    """The sections that a docstring lacks, given the parameters and whether it returns."""
    wanted = (["Args:"] if parameters else []) + (["Returns:"] if returns else [])
    lines = [line.strip() for line in (docstring or "").splitlines()]
    return [section for section in wanted if section not in lines]


def test_everything_public_has_a_docstring():
    found = list(public())
    assert found
    bare = []
    for name, value in found:
        text = value.__doc__ or ""
        made_by_dataclass = inspect.isclass(value) and text.startswith(f"{value.__name__}(")
        if not text.strip() or made_by_dataclass:
            bare.append(name)
    assert not bare, bare


def test_every_module_has_a_docstring():
    assert not [name for name in MODULES if not importlib.import_module(name).__doc__]


def test_key_comes_first_and_is_called_key():
    packages = ("attacks", "apps", "losses", "metrics", "models", "data", "ops")
    assert not [name for name, _, given in functions(*packages) if breaks_key_law(given)]


def test_settings_are_keyword_only():
    assert not [name for name, _, given in functions(*ALGORITHMS) if breaks_keyword_law(given)]


def test_docstrings_describe_arguments_and_results():
    lacking = {}
    for name, value, parameters in functions(*DESCRIBED):
        returns = inspect.signature(value).return_annotation not in (None, "None")
        if missing := missing_sections(value.__doc__, parameters, returns):
            lacking[name] = missing
    assert not lacking, lacking


def test_laws_can_fail():
    def of(function):
        return list(inspect.signature(function).parameters.values())

    assert breaks_key_law(of(lambda images, key: 0))
    assert breaks_key_law(of(lambda rng, images: 0))
    assert breaks_key_law(of(lambda dropout_rng, images: 0))
    assert not breaks_key_law(of(lambda key, images, *, eps: 0))

    def typed(images, eps: float, *, norm="l2"):
        return images, eps, norm

    assert breaks_keyword_law(of(typed))
    assert breaks_keyword_law(of(lambda images, eps=1.0: 0))
    assert not breaks_keyword_law(of(lambda key, images, *, eps=1.0: 0))
    assert missing_sections("Does.\n\n  Args:\n    x: it.", of(typed), True) == ["Returns:"]
    assert missing_sections("Returns it.", of(typed), False) == ["Args:"]


def test_names_offered_by_packages_exist():
    for name in MODULES:
        module = importlib.import_module(name)
        offered = getattr(module, "__all__", [])
        assert not [item for item in offered if not hasattr(module, item)], name


@pytest.mark.long
def test_imports_are_silent_and_need_no_other_framework(tmp_path):
    for name in ("tensorflow", "torch", "keras"):  # where they are installed
        (tmp_path / f"{name}.py").write_text("Tensor = object")
    code = f"""
import importlib, sys
sys.path.insert(0, {str(tmp_path)!r})
for name in {MODULES!r}:
    importlib.import_module(name)
print(sorted({{"tensorflow", "torch", "keras"}} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (run.stdout, run.stderr) == ("[]\n", "")


LOCAL_PATH = re.compile(r"(?<![\w.~$}-])/(work|root|tmp|home|Users)/\w")


def test_no_path_of_one_machine_is_in_the_tree():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = ["git", "-C", str(ROOT), "ls-files"]
    tracked = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    found = []
    for path in tracked:
        try:
            text = (ROOT / path).read_text()
        except (UnicodeDecodeError, FileNotFoundError):  # an image, or deleted but not committed
            continue
        found += [f"{path}: {line.strip()}" for line in text.splitlines() if LOCAL_PATH.search(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("root", ["work", "tmp", "home"])
def test_a_path_of_one_machine_is_recognized(root):
    assert LOCAL_PATH.search(f"see /{root}/me/data")
    assert not LOCAL_PATH.search(f"runs/{root}/me/data")


def test_load_torch_is_public():
    assert models.load_torch is models.convert.load_torch
