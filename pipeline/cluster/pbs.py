"""PBS (OpenPBS, PBS Pro) by Snakemake's executor cluster-generic: `snakemake --profile pbs`.

`python -m pipeline.cluster.pbs submit SCRIPT` asks qsub for what a job's script says in its line of
properties and prints the job's id; `status ID` says running, success or failed.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkstemp
from typing import Any

from pipeline.errors import UserError
from pipeline.job.report import report
from pipeline.store.files import write_atomic

PROPERTIES = re.compile(rb"^# properties = (?P<json>\{.*\})$", re.MULTILINE)
LOGS = Path(".snakemake/pbs_logs")
FINISHED = ("F", "X")  # states of a job that PBS keeps in its history
UNKNOWN = re.compile("unknown job", re.IGNORECASE)
PATIENCE = 60  # seconds for an answer
# what passes: a queue that is full, a server that does not answer
BUSY = re.compile(
    "would exceed|already in queue|max_queued|cannot connect|timed out|busy|refused", re.IGNORECASE
)
BUSY_SECONDS = 30  # between two tries to submit
# A job's script leaves its exit code, for a server that forgets a job when it ends.
TRAP = """ended={file}; trap 'echo $? > "$ended"' EXIT"""


def submit(script: Path) -> str:
    """Hand a job's script to qsub; returns the id that PBS gives it."""
    text = script.read_bytes()  # in the encoding of whoever wrote it
    match = PROPERTIES.search(text)
    if match is None:
        raise UserError(f"{script}: has no line of properties; Snakemake's scripts have changed")
    LOGS.mkdir(parents=True, exist_ok=True)
    command = qsub(json.loads(match["json"]), os.environ)

    # Made here, empty: of a file that is there, NFS shows what another machine wrote and closed.
    handle, end = mkstemp(suffix=".end", dir=LOGS.absolute())
    os.close(handle)
    trap = os.fsencode(TRAP.format(file=shlex.quote(end)))
    write_atomic(script, text[: match.end()] + b"\n" + trap + text[match.end() :])
    try:
        job = _ask_until_taken([*command, str(script)])
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:  # no qsub here, or no answer
        Path(end).unlink()
        raise UserError(f"qsub: {error}; pbs/config.yaml says what is asked for") from None

    write_atomic(_link(job), end.encode())
    return job


def _ask_until_taken(command: list[str]) -> str:
    """The id that qsub gives; a full queue is waited out. ValueError of any other refusal."""
    while True:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode == 0:
            return done.stdout.strip()

        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        if not BUSY.search(said):
            raise ValueError(said)
        print(f"PBS takes no job now, tried again every {BUSY_SECONDS} s: {said}", file=sys.stderr)
        time.sleep(BUSY_SECONDS)


def _link(job: str) -> Path:
    """The file that says where a job's script writes how it ended."""
    return LOGS / f"{job}.job"


def qsub(properties: Mapping[str, Any], environment: Mapping[str, str]) -> list[str]:
    """The command for a job: one node, its cores, memory, GPUs and minutes."""
    asked = properties["resources"]
    cpus = asked.get("cpus_per_task", properties.get("threads", 1))
    chunk = [f"select=1:ncpus={cpus}", f"mem={asked['mem_mb']}mb"]
    gpus = _count_gpus(asked)
    chunk += [f"ngpus={gpus}"] if gpus else []
    hours, minutes = divmod(int(asked["runtime"]), 60)

    name = re.sub(r"\W", "_", str(properties.get("rule", properties.get("groupid", "group"))))
    command = ["qsub", "-V", "-N", f"robust-{name}"[:15]]  # PBS: at most 15 characters
    command += ["-S", "/bin/sh"]  # else it may be a user's csh
    command += ["-l", ":".join(chunk), "-l", f"walltime={hours:02d}:{minutes:02d}:00"]
    command += ["-j", "oe", "-o", f"{LOGS}/"]
    for option, variable in (("-q", "QSUB_QUEUE"), ("-A", "QSUB_ACCOUNT")):
        command += [option, environment[variable]] if environment.get(variable) else []
    return command


def _count_gpus(asked: Mapping[str, Any]) -> int:
    """GPUs of a job: `gpu: 2`, or SLURM's way to say it, `gres: gpu:a100:2`."""
    if kind := asked.get("gres"):
        return int(str(kind).rpartition(":")[2])
    return int(asked.get("gpu", 0))


def status(job: str) -> str:
    """running, success or failed: a server that does not answer has not lost the job."""
    for history in (["-x"], []):  # a server that keeps no history refuses -x, whatever the job
        try:
            done = subprocess.run(
                ["qstat", *history, "-f", "-F", "json", job],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "running"
        except OSError as error:  # no qstat here
            raise UserError(f"qstat: {error}; pbs/config.yaml says what is asked for") from None
        if done.returncode == 0:
            return _read_state(done.stdout) or _look_at_end(job)
        if UNKNOWN.search(done.stderr):
            return _read_end(job)
    return "running"


def _read_end(job: str) -> str:
    """How a job ended that PBS knows no more: by what its script wrote, if it was not killed."""
    try:
        end = Path(_link(job).read_text()).read_text()
    except FileNotFoundError:
        return "failed"
    return "success" if end.strip() == "0" else "failed"


def _look_at_end(job: str) -> str:
    """Of a job whose state cannot be read: running, until its script has written how it ended."""
    print(f"{job}: qstat's answer cannot be read", file=sys.stderr)
    try:
        return _read_end(job) if Path(_link(job).read_text()).read_text() else "running"
    except FileNotFoundError:
        return "running"


def _read_state(answer: str) -> str:
    """What PBS says of a job; empty where it cannot be read."""
    try:
        (about,) = json.loads(answer)["Jobs"].values()
        if about["job_state"] not in FINISHED:
            return "running"
        return "success" if int(about.get("Exit_status", 1)) == 0 else "failed"
    except (AttributeError, KeyError, TypeError, ValueError):  # half an answer is none
        return ""


def main(argv: list[str] | None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.cluster.pbs", description=__doc__)
    parser.add_argument("what", choices=("submit", "status"))
    parser.add_argument("argument", metavar="SCRIPT or ID")
    args = parser.parse_args(argv)
    print(submit(Path(args.argument)) if args.what == "submit" else status(args.argument))


if __name__ == "__main__":
    report(main, is_job=False)  # Snakemake reads what it prints
