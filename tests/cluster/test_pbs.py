"""PBS by cluster-generic: what qsub is asked for, and a whole table on a PBS that is played."""

import json
import os
import stat
import time

import pytest
from projects import Project, job_params

from pipeline.cluster import pbs
from pipeline.errors import UserError

# commands that keep a job's state in files: qsub starts it in a session of its own, as a node would
QSUB = """#!/bin/bash
if [ -e "$PLAYED/refuse" ]; then rm "$PLAYED/refuse"; echo "qsub: queue is full" >&2; exit 38; fi
echo "$@" >> "$PLAYED/asked"
id="$(wc -l < "$PLAYED/asked").server"
script="${@: -1}"
setsid bash -c 'bash "$1"; echo $? > "$2.tmp"; mv "$2.tmp" "$2"' - "$script" "$PLAYED/$id.end" \\
  > "$PLAYED/$id.log" 2>&1 < /dev/null &
echo "$id"
"""
QSTAT = """#!/bin/bash
id="${@: -1}"
about='{"Jobs": {"%s": {"job_state": "%s", "Exit_status": %d}}}'
if [ -e "$PLAYED/$id.end" ]; then printf "$about" "$id" F "$(cat "$PLAYED/$id.end")"
elif [ -e "$PLAYED/$id.log" ]; then printf "$about" "$id" R 0
else echo "qstat: Unknown Job Id $id" >&2; exit 153; fi
"""


@pytest.fixture
def played(tmp_path, monkeypatch):
    folder = tmp_path / "played"
    folder.mkdir()
    for name, text in (("qsub", QSUB), ("qstat", QSTAT), ("qdel", "#!/bin/sh\n")):
        (folder / name).write_text(text)
        (folder / name).chmod((folder / name).stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PLAYED", str(folder))
    return folder


def test_a_table_on_pbs_is_the_table_of_one_machine(played, tmp_path):
    params = job_params(["pgd_at"], epochs=1)
    here, there = (Project(tmp_path / name, params) for name in ("here", "there"))
    (played / "refuse").touch()  # the first submission is refused, and tried again

    alone = here.snakemake("-q")
    done = there.run("snakemake", "--profile", "pbs", "--latency-wait", "5", "results/table1.csv")
    assert (alone.returncode, done.returncode) == (0, 0), alone.stdout + done.stdout
    assert there.results() == here.results()
    assert "queue is full; pbs/config.yaml says what is asked for" in done.stdout

    asked = (played / "asked").read_text().splitlines()
    assert [line.split()[2] for line in asked] == ["robust-train", "robust-evaluate"]
    assert all("-V" in line and "select=1:ncpus=1:mem=500mb" in line for line in asked)


# of a server that keeps no history: an ended job is unknown to it, and -x is refused
FORGETFUL = """#!/bin/bash
if [ "$1" = -x ]; then echo "qstat: PBS is not configured to maintain job history" >&2; exit 1; fi
if [ -e "$PLAYED/running" ]; then echo '{"Jobs": {"1.server": {"job_state": "R"}}}'; exit 0; fi
echo "qstat: Unknown Job Id" >&2; exit 153
"""


@pytest.mark.parametrize(
    ("command", "said"), [("true", "success"), ("false", "failed"), ("kill -9 $$", "failed")]
)
def test_a_server_without_history_is_told_how_a_job_ended(
    played, tmp_path, monkeypatch, command, said
):
    monkeypatch.chdir(tmp_path)
    (played / "qstat").write_text(FORGETFUL)
    script = tmp_path / "job.sh"
    about = f"# properties = {json.dumps(PROPERTIES)}"
    script.write_text(f"#!/bin/sh\n{about}\ncd / && {command} && exit 0 || exit 1\n")
    job = pbs.submit(script)

    while not (played / f"{job}.end").exists():
        time.sleep(0.02)
    (played / "running").touch()
    assert pbs.status(job) == "running"
    (played / "running").unlink()
    assert pbs.status(job) == said


PROPERTIES = {"rule": "train", "resources": {"mem_mb": 500, "runtime": 135, "cpus_per_task": 4}}


def test_qsub_is_asked_for_memory_minutes_cores_and_gpus():
    words = pbs.qsub(PROPERTIES, {"QSUB_QUEUE": "gpu"})
    assert words[:4] == ["qsub", "-V", "-N", "robust-train"]
    assert "select=1:ncpus=4:mem=500mb" in words and "walltime=02:15:00" in words
    assert words[-2:] == ["-q", "gpu"]

    on_gpu = PROPERTIES["resources"] | {"gpu": 1}
    assert "select=1:ncpus=4:mem=500mb:ngpus=1" in pbs.qsub(PROPERTIES | {"resources": on_gpu}, {})
    for asked in ({"gres": "gpu:1"}, {"gres": "gpu:a100:1"}):  # as a rule whose runs may be packed
        words = pbs.qsub(PROPERTIES | {"resources": PROPERTIES["resources"] | asked}, {})
        assert "select=1:ncpus=4:mem=500mb:ngpus=1" in words
    group = {"groupid": "pack_4_11", "resources": PROPERTIES["resources"]}
    assert pbs.qsub(group, {})[3] == "robust-pack_4_1"  # 15 characters


def test_a_script_without_properties_is_one_line(tmp_path):
    (tmp_path / "script.sh").write_text("echo\n")
    with pytest.raises(UserError, match="has no line of properties"):
        pbs.submit(tmp_path / "script.sh")


@pytest.mark.parametrize("words", ["would exceed queue", "Maximum number of jobs already in queue"])
def test_a_full_queue_is_waited_out(played, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pbs, "BUSY_SECONDS", 0)
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(PROPERTIES)}\ntrue\n")
    (played / "qsub").write_text(
        '#!/bin/sh\n[ -e "$PLAYED/full" ] || exec echo 7.server\nrm "$PLAYED/full"\n'
        f'echo "qsub: {words} workq" >&2\nexit 38\n'
    )
    (played / "full").touch()
    assert pbs.submit(script) == "7.server"
    assert words in capsys.readouterr().err


def test_a_qsub_that_is_not_there_or_does_not_answer_is_one_line(played, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pbs, "PATIENCE", 0.1)
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(PROPERTIES)}\ntrue\n")
    (played / "qsub").write_text("#!/bin/sh\nexec sleep 5\n")
    for text in ("timed out", "No such file"):
        with pytest.raises(UserError, match=f"qsub: .*{text}.*; pbs/config.yaml says") as raised:
            pbs.submit(script)
        assert "\n" not in str(raised.value)
        (played / "qsub").unlink(missing_ok=True)
        monkeypatch.setenv("PATH", str(played))


@pytest.mark.parametrize("about, said", [
    ({"job_state": "Q"}, "running"),
    ({"job_state": "F", "Exit_status": 0}, "success"),
    ({"job_state": "F", "Exit_status": 75}, "failed"),  # a time slice: Snakemake tries again
    ({"job_state": "F"}, "failed"),
    ({}, "running"),
    ("half an answer", "running"),
])  # fmt: skip
def test_what_qstat_says_of_a_job(about, said, played):
    (played / "qstat").write_text(
        f"#!/bin/sh\necho '{json.dumps({'Jobs': {'7.server': about}})}'\n"
    )
    assert pbs.status("7.server") == said


@pytest.mark.parametrize(
    "text, said", [("Unknown Job Id 7", "failed"), ("cannot connect", "running")]
)
def test_a_server_that_does_not_answer_has_not_lost_the_job(text, said, played):
    (played / "qstat").write_text(f"#!/bin/sh\necho 'qstat: {text}' >&2\nexit 1\n")
    assert pbs.status("7.server") == said


@pytest.mark.parametrize("code, said", [("", "running"), ("0\n", "success"), ("1\n", "failed")])
def test_an_answer_that_cannot_be_read_leaves_what_the_script_wrote(
    code, said, played, tmp_path, monkeypatch, capsys
):
    """Such a job was running for ever."""
    monkeypatch.chdir(tmp_path)
    (played / "qstat").write_text("#!/bin/sh\necho 'Job has: {'\n")
    pbs.LOGS.mkdir(parents=True)
    (tmp_path / "end").write_text(code)
    pbs._link("7.server").write_text(str(tmp_path / "end"))
    assert pbs.status("7.server") == said
    assert capsys.readouterr().err == "7.server: qstat's answer cannot be read\n"


def test_a_qstat_that_is_not_there_is_one_line(played, monkeypatch):
    (played / "qstat").unlink()
    monkeypatch.setenv("PATH", str(played))
    with pytest.raises(UserError, match="qstat: .*No such file.*; pbs/config.yaml says"):
        pbs.status("7.server")
