"""Commands, Python and links of every README and of the docstrings of the configs."""

import argparse
import pathlib
import re
import shlex

import pytest

from arinv import command_line
from arinv.errors import UserError
from arinv.experiment import references, workdirs
from launch import local_processes
from launch.benchmarks import __main__ as benchmarks
from launch.benchmarks import accelerator

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("arinv", "configs", "launch", "tests")  # no others: environments and runs hold documents of their own
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS if path.name != "CHANGELOG.md"]
PLACEHOLDERS = re.compile(r"\.\.\.|NAME\b|\bFILE\b|\bDIR\b|\[|PROCESS_ID=i")
PROGRAMS = ("python -m arinv", "arinv --", "launch/", "sbatch ")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """Returns the commands of arinv and launch/ in blocks and inline code, with the values of variables."""
    plain = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
             for line in block.replace("\\\n", "").splitlines()]  # fmt: skip
    lines += re.findall(r"^ {4}(.*)", plain.replace("\\\n", ""), re.MULTILINE)
    lines += [" ".join(code.replace("\\|", "|").split()) for code in re.findall(r"`([^`]+)`", plain)]
    variables = {"n": "8"} | dict(re.findall(r"(?:^|\s|`)([A-Z]+)=([\w/+$]+)(?=`|$)", text, re.MULTILINE))
    result = []
    for line in lines:
        line = re.sub(r"^(?:[A-Z_]+=\S+\s+)*", "", line.strip())
        for _ in range(2):  # one variable may contain another
            line = re.sub(r"\$(\w+)", lambda match: variables.get(match[1], match[0]), line)
        if line.startswith(PROGRAMS) and not PLACEHOLDERS.search(line):
            result.append(line)
    return list(dict.fromkeys(result))


def check(command):
    """Checks a command without running it.

    Raises:
      UserError, AssertionError, SystemExit: an argument, a field, a flag or a file that does not exist.
    """
    program, *arguments = shlex.split(command, comments=True)
    if program in ("python", "arinv"):
        return check_arinv(arguments[2:] if program == "python" else arguments)
    if program == "sbatch":
        script = arguments.index("launch/slurm.sbatch")
        return check_arinv(arguments[script + 1 :], complete=False)
    assert (ROOT / program).exists(), f"{program} does not exist"
    name = program.removeprefix("launch/")
    if name == "test":
        check_pytest(arguments)
    elif name == "local" and arguments:
        check_arinv(local_processes.parse(arguments)[1])
    elif name == "quickstart":
        check_arinv(["--config=configs/quickstart.py", "--workdir=runs/quickstart", *arguments])
    elif name == "benchmark":
        benchmarks._arguments(arguments)
    elif name == "accelerator":
        accelerator._arguments(arguments)
    elif name == "tpu_pod" and "--" in arguments:
        split = arguments.index("--")
        flags = [argument.partition("=")[0] for argument in arguments[:split] if argument.startswith("-")]
        assert all(flag in read(program) for flag in flags), flags
        check_arinv(arguments[split + 1 :])


def check_arinv(arguments, complete=True):
    if arguments and arguments[0] in command_line.SUBCOMMANDS:
        assert len(arguments) > 1 or arguments[0] != "info", "arinv info needs a path"
        return
    argv = ["arinv", *arguments]
    if command_line.information(argv) is None and (complete or arguments):
        check_references(command_line.parse(argv).config)


def check_references(config):
    """Checks that a changed input of each field is noticed."""
    for stage in config.stages.values() if "stages" in config else [config]:
        for name, value in workdirs.flatten(workdirs.plain(stage)).items():
            texts = value if isinstance(value, list) else [value]
            if any(str(text).startswith(("stage:", "zoo:", "runs/")) for text in texts):
                assert references.role(name), f"{name}={value} is no row of references.FIELDS"


def check_pytest(arguments):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("-m")
    parser.add_argument("paths", nargs="*")
    for path in parser.parse_args(arguments).paths:
        assert (ROOT / path).exists(), f"{path} does not exist"


@pytest.mark.parametrize("name", NAMES)
def test_commands_of_documents_parse(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(read(name)):
        try:
            check(command)
        except (UserError, SystemExit, argparse.ArgumentError) as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("name", command_line.shipped())
@pytest.mark.long
def test_commands_of_config_docstrings_parse(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = commands(command_line.docstring(command_line.shipped()[name]))
    assert any(f"configs/{name}.py" in command for command in lines), "the docstring has no command"
    for command in lines:
        try:
            check(command)
        except UserError as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ("`python -m arinv --config=configs/quickstart.py:encodr=resnet18 --workdir=x`", "argument 'encodr'"),
        ("`python -m arinv --config=configs/quickstrat.py --workdir=x`", "quickstrat.py does not exist"),
        ("```bash\npython -m arinv --config=classifier --config.epochs=1 \\\n  --workdir=x\n```", "--config.epochs"),
        ("    python -m arinv --config=classifier --wrkdir=x", "wrkdir"),
        ("`Q=runs/a`\n`python -m arinv --config=configs/denoise.py:checkpoint=$Q --workdir=x`", "'checkpoint'"),
        ("`launch/quickstrat`", "launch/quickstrat does not exist"),
        ("`launch/test tests/none.py`", "tests/none.py does not exist"),
        ("`launch/benchmark --againts torch`", "2"),
        ("`launch/local -n 2 --config=configs/style.py:levels=a --workdir=x`", "'levels'"),
        ("`launch/tpu_pod pod --zon -- --config=quickstart --workdir=x --config.sed=1`", "sed"),
        ("`sbatch --nodes=4 launch/slurm.sbatch --config=configs/cifar10.py:epochs=3 --workdir=x`", "'epochs'"),
    ],
)
def test_wrong_commands_fail(document, shown, monkeypatch):
    monkeypatch.chdir(ROOT)
    (command,) = [command for command in commands(document) if "=runs/a" not in command[:9]]
    with pytest.raises((UserError, AssertionError, SystemExit)) as error:
        check(command)
    assert shown in str(error.value)


def test_commands_of_the_readme_have_no_variables():
    lines = commands(read("README.md"))
    inverter = "checkpoint=runs/quickstart/robust_inverter"
    command = f"python -m arinv --config=configs/evaluate.py:{inverter},eps=0.5 --workdir=runs/evaluation"
    assert len(lines) > 15 and command in lines
    assert not any("$" in line for line in lines)


PYTHON = {f"{name} {i}": block for name in NAMES for i, block in enumerate(blocks(read(name), "python"))}


@pytest.mark.parametrize("name", PYTHON)
@pytest.mark.long
def test_python_of_documents_runs(name, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a block may write
    block = PYTHON[name]
    code = compile(block, name, "exec")
    if 'arinv.load("runs' in block:
        workdir = request.getfixturevalue("untrained")  # trained at 16 px
        block = block.replace("runs/quickstart", str(workdir)).replace(":32", ":16")
        code = compile(block, name, "exec")
    elif "resnet18" in block and "models.build(" in block:  # a smaller encoder compiles faster
        block = re.sub(r"block\d", "conv5", block.replace("resnet18", "alexnet_small")).replace("=20", "=2")
        code = compile(block, name, "exec")
    variables = {}
    exec(code, variables)
    if "get_config" in variables:
        assert variables["get_config"]().task


@pytest.mark.parametrize("name", NAMES)
def test_links_of_documents_exist(name):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(name)):
        if not target.startswith(("http:", "https:")):
            assert (ROOT / name).parent.joinpath(target).exists(), target


def arguments_of(name):
    """Returns the arguments that a config takes, as its error lists them."""
    with pytest.raises(UserError) as error:
        command_line.load(f"{name}:no_such_argument=1")
    return set(re.search(r"known: ([\w, ]+)\.", str(error.value))[1].split(", "))


def test_configs_readme_lists_every_config_and_its_arguments():
    rows = dict(re.findall(r"^\| \[(\w+)\]\(\w+\.py\) \| ([^|]*) \|", read("configs/README.md"), re.MULTILINE))
    assert set(rows) == {name for name in command_line.shipped() if "/" not in name}
    shared = arguments_of("classifier")
    rows["classifier"] = "only " + rows["classifier"]
    for name, row in rows.items():
        given, missing = (set(re.findall(r"\w+", part)) for part in row.partition("(not ")[::2])
        expected = given - {"only"} if "only" in given else (shared | given) - missing
        assert arguments_of(name) == expected, name


@pytest.mark.parametrize("name", command_line.shipped())
def test_configs_have_at_most_22_arguments_all_of_them_described(name):
    known = arguments_of(name)
    assert len(known) <= 22
    docstring = command_line.docstring(command_line.shipped()[name])
    if "those of configs/classifier.py" in docstring:
        docstring += command_line.docstring(command_line.shipped()["classifier"])
    missing = {argument for argument in known if not re.search(rf"\b{argument}\b", docstring)}
    assert not missing


PACKAGES = sorted(path.parent for path in (ROOT / "arinv").glob("*/**/__init__.py"))
MAPPED = [folder for folder in PACKAGES if len([*folder.glob("*.py")]) > 7 or folder.parent.name == "apps"]


def file_map(folder):
    """Returns the files that the table in a package's README or else its docstring names."""
    if (folder / "README.md").exists():
        rows = re.findall(r"^\| (`.*?) \|", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
        return [name for row in rows for name in re.findall(r"`(\w+\.py)`", row)]
    return re.findall(r"^(\w+(?:\.py|/)) {2,}\S", (folder / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("folder", MAPPED, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_map_of_a_package_names_every_file_once(folder):
    files = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
    names = file_map(folder)
    assert sorted(name for name in names if not name.endswith("/")) == sorted(files)
    assert all((folder / name / "__init__.py").exists() for name in names if name.endswith("/"))


def test_readme_is_short():
    text = re.sub(r"^<!-- zoo.*?^<!-- end of zoo", "", read("README.md"), flags=re.DOTALL | re.MULTILINE)  # the table
    assert len(text.splitlines()) <= 150
