"""Say what a file is that is no trace, and what would be needed."""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC

from lazsim.files.reading import numbered_lines
from lazsim.trace.reading.catalogued import open_head, read_leniently
from lazsim.trace.reading.rows import plain_name
from lazsim.trace.reading.times import read_date, read_length
from lazsim.trace.source import number
from lazsim.trace.stats import count_interval
from lazsim.units import HOUR_S

NODE_LOG = "slurmctld.log, sacctmgr show event -P, kubectl get events -A -o json or a Prometheus range of up"
LOADS = "if it holds expert loads, lazsim routing reads them"

BINARY_BYTES = 512
BINARY = {
    rb"PK\x03\x04.{26}[^/\0]*/(data\.pkl|byteorder)": f"a PyTorch file (.pt); {LOADS}",
    rb"\x80\x02\x8a\n": f"a PyTorch file (.pt) of before 1.6; {LOADS}",
    rb"\x80[\x02-\x05][\x95}\]c]": "a Python pickle, which can run code when it is read; save what it holds as CSV",
    rb"PK\x03\x04.{26}\S*\.npy": f"arrays of numpy (.npz); {LOADS}",
    rb"\x93NUMPY": f"an array of numpy (.npy); {LOADS}",
    rb".{8}\{\"": f"tensors (.safetensors); {LOADS}",
    rb"PK\x03\x04.{26}(\[Content_Types\]|xl/|docProps)": "an Excel workbook; save the sheet as CSV",
    rb"\x89HDF\r\n": "an HDF5 file; save its table as CSV or Parquet",
    rb"SQLite format 3": "a database of SQLite; save its table as CSV, as with sqlite3 -csv -header",
    rb"ARROW1|FEA1": "an Arrow or Feather file; save its table as Parquet or CSV",
    rb"ORC": "an ORC file; save its table as Parquet or CSV",
    rb".{257}ustar": "a tar archive; unpack it and give the file in it",
    rb"%PDF": "a PDF document; give the data themselves, as CSV",
    rb"\x89PNG|\xff\xd8\xff": "a picture; give the data themselves, as CSV",
}
"""Beginnings of files that are not text."""

GIVE = f"give {NODE_LOG}, or a table such as 2025-03-01 00:05,down,node7"
SNAPSHOT = "a list of nodes at one instant ({}), which does not say when they come and go; give a log such as "
JOBS = "a job log, in which no node comes or goes"
JOBS_ALONE = f"{JOBS}; give {NODE_LOG}, or make a trace with lazsim trace generate --nodes N --node-mtbf D --repair D"
TEXTS = {
    r'\s*\[\s*\{[^{}]{0,2000}"(job_?id|attempts)"|(?-i:[^\n]*NODELIST\(REASON\))': JOBS_ALONE,
    r"\s*<(!doctype|html|\?xml)": "a web page or XML; fetch the raw file, which a page about it only shows",
    r"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    r"# lazsim-routing|step,layer,expert,tokens": "expert loads; give them as `routing`",
    r"(?-i:\s*PARTITION +AVAIL|[^\n]*\b(NODELIST|HOSTNAMES)\b|REASON +USER)": SNAPSHOT.format("sinfo") + NODE_LOG,
    r"\s*NodeName=": SNAPSHOT.format("scontrol show node or slurm.conf") + NODE_LOG,
    r"\s*NAME +STATUS +ROLES": SNAPSHOT.format("kubectl get nodes") + NODE_LOG,
    r'\s*\{\s*"(Reservations|InstanceStatuses|SpotInstanceRequests)"': SNAPSHOT.format(
        "aws ec2 describe-instances, -instance-status or -spot-instance-requests"
    )
    + "aws autoscaling describe-scaling-activities",
    r'[\s\S]{0,2000}"kind":\s*"compute#instance"': SNAPSHOT.format("gcloud compute instances list")
    + "gcloud compute operations list --format=json",
    r"\s*machine_?id,": SNAPSHOT.format("machines and their GPUs") + NODE_LOG,
    r'\s*\{\s*"MetricDataResults"': "an answer of get-metric-data; give that of aws cloudwatch get-metric-statistics",
    r'\s*(\{\s*")?SpotPriceHistory': "a history of spot prices, in which no node comes or goes; give interruption "
    "warnings or aws autoscaling describe-scaling-activities",
    r"\s*(NAMESPACE +)?LAST SEEN +": "events of Kubernetes without dates; give kubectl get events -A -o json",
    r"[A-Z][a-z]{2} [ \d]\d [\d:]{8} \S+ \S*slurmctld": "a journal without years; give that of "
    "journalctl -u slurmctld -o short-iso",
    r"\[[A-Z][a-z]{2} [ \d]\d [\d:.]{8,}\] ": "a log without years; write its dates as [2025-03-01T01:10:05], "
    "as Slurm does with LogTimeFormat=iso8601_ms",
    r"[\s\S]{0,2000}NVRM: Xid": "a log of a kernel, whose GPU errors (Xid) do not say when a node goes "
    f"and comes back; {GIVE}",
    r"[\s\S]{0,2000}DCGM_FI_": f"counters of DCGM, which do not say when a node goes and comes back; {GIVE}",
    r"[\s\S]{0,2000}\[\d{9,}\] (HOST|SERVICE|CURRENT HOST) ": f"a log of Nagios; {GIVE}",
    r'\s*[\[{][\s\S]{0,2000}"(DocumentIncarnation|NotBefore)"\s*:': "what Azure schedules, which does not say when a "
    "machine is back; write a row such as 2025-03-01 00:05,down,vm_0 at each NotBefore, and one with up when it is",
    r'\s*\{[\s\S]{0,8000}"(slurmd_start_time|reason_changed_at|sinfo)"\s*:': SNAPSHOT.format(
        "scontrol show node or sinfo --json"
    )
    + NODE_LOG,
    r'\s*\{[\s\S]{0,8000}"jobs"\s*:\s*\[\s*\{[\s\S]{0,4000}"job_id"': JOBS_ALONE,
    r"\s*NAME +TYPE +TARGET|[^\n]*\boperationType\b|[^\n]*protoPayload\.": "a table of what happened in Google Cloud; "
    "give it as JSON, with --format=json",
    r"(---\s)?\s*(- )?[\w@/.-]+:( [^,;\t\n]*)?\n\s*(- )?[\w@/.-]+:( |\n)": "YAML; give the same as JSON, with -o json "
    "of kubectl, --format=json of gcloud or --output json of aws",
    r"# (HELP|TYPE) |\w+\{[^\n]*\}( =>| [-+.\dNna]+)": "samples as Prometheus prints them; give JSON, as promtool "
    "query range -o json or /api/v1/query_range do",
    r'\s*\{\s*"(spot_advisor|instance_types|global_rate|ranges)"': "AWS's spot advisor, which has the share "
    "of instances that are interrupted in a month; "
    "make a trace of a rate with lazsim trace generate --nodes N --node-mtbf D --repair D",
    r'\s*\{\s*"status":\s*"error"': "an error of Prometheus; ask again, and give the answer",
    r"[^\n]*@message": "a table of CloudWatch's log; give it as JSON, as aws logs filter-log-events does",
    r"ACTIVITIES\t|-+\n\| +Describe": "a table or text of aws; give it with --output json",
    r"[^\n]*(gpu|cpu|mem)[^\n,]*util": f"a log of utilisation, in which no node comes or goes; give {NODE_LOG}",
}
"""Beginnings of texts that are no traces. Other job logs are told by their columns, and lists of hosts by all lines."""
UNKNOWN_TEXTS = {
    r"(?=[^\n]*step)(?![^\n]*(node|host|instance))[^\n]*\bloss\b|[\s\S]{0,65536}(:::MLLOG|\biteration\s+\d+/\s*\d+"
    r"|step:\s*\d+\b[^\n]*loss:|\bglobal_step[:=]|\bstep=\d+, skipped=)": "a training log, which lazsim compare "
    f"--observed takes, not a trace; give {NODE_LOG}",
}
"""Beginnings of texts that are no traces where no format fits: a table of nodes may have such columns or words, too."""

ID_COLUMNS = ("jobid", "jobidraw")
JOB_COLUMNS = {*ID_COLUMNS, "jobname"}
NO_JOB = re.compile(r"\d+\S*\.\w+|-+", re.ASCII)
"""How sacct numbers the steps of a job, and its line under the header: ``7.batch`` and ``7.0`` ran on nodes
that job ``7`` has counted already."""
LENGTH_COLUMNS = ("elapsedraw", "duration", "elapsed")
RUN_COLUMNS = {"submittime", "submittedtime", "submit", "starttime", "start", "attempts", "exitcode", *LENGTH_COLUMNS}
NODE_COLUMNS = ("nodenum", "numnodes", "nnodes", "allocnodes", "nodes")
"""Names of columns of job logs, without case and signs: AcmeTrace, Helios, Philly and Slurm's sacct."""
NODE_FAILURE = "NODE_FAIL"
"""How Slurm, and data sets from it, call the end of a job of which a node failed."""
_HOST = re.compile(r"(?=\S*[A-Za-z])(?=\S*\d)[\w.-]+(\[[\d,-]+\][\w.-]*)*(\s+(slots|max_slots)\s*=\s*\d+)*", re.ASCII)


def explain_binary(content: bytes) -> str | None:
    """Return what a file is that is no text and no trace, or None where nothing is known."""
    return next((what for begin, what in BINARY.items() if re.match(begin, content[:BINARY_BYTES], re.DOTALL)), None)


def explain_text(text: str, *, is_whole: bool = True, is_unknown: bool = False) -> str | None:
    """Return what a text, or its beginning, is that is no trace, and what would be needed, or None if nothing is known.

    A text is unknown if it fits no format of traces.

    Examples
    --------
    >>> explain_text("version https://git-lfs.github.com/spec/v1")
    'a pointer of Git LFS; fetch the file itself with git lfs pull'
    """
    columns = {plain_name(name) for name in open_head(text).header}
    if columns & JOB_COLUMNS and columns & RUN_COLUMNS:
        return _explain_jobs(text) if is_whole else JOBS_ALONE
    for begin, what in (TEXTS | (UNKNOWN_TEXTS if is_unknown else {})).items():
        if re.match(begin, text, re.IGNORECASE):
            return what
    lines = [line for _, line in numbered_lines(text) if not line.startswith("#")]
    if lines and all(_HOST.fullmatch(line) for line in lines):
        return SNAPSHOT.format("host names") + f"{NODE_LOG}, and these names as `cluster_nodes`"
    return None


def _explain_jobs(text: str) -> str:
    """Return the same for a job log, with the rate of failures of nodes where the log has it."""
    table = read_leniently(text)
    columns = [plain_name(name) for name in table.header]
    rows = [dict(zip(columns, fields, strict=False)) for _, fields in table.rows]
    jobs = [texts for texts in rows if not NO_JOB.fullmatch(_first(texts, ID_COLUMNS))]
    num_failures, node_s = 0, 0.0
    for texts in jobs:
        with suppress(ValueError):
            used_s = number(_first(texts, NODE_COLUMNS)) * _job_s(texts)
            node_s += used_s if math.isfinite(used_s) else 0.0
            num_failures += texts.get("state", "").upper().startswith(NODE_FAILURE)
    if not (num_failures and node_s):
        return JOBS_ALONE
    hours = node_s / HOUR_S
    low, high = count_interval(num_failures)
    return (
        f"{JOBS}; {num_failures} of its {len(jobs)} jobs ended by {NODE_FAILURE} in {hours:.4g} node-hours, "
        f"{num_failures / hours:.4g} per node-hour (95 %: {low / hours:.4g} to {high / hours:.4g}): make a trace of "
        f"that rate with lazsim trace generate --nodes N --node-mtbf {hours / num_failures:.4g}h --repair D"
    )


def _job_s(texts: Mapping[str, str]) -> float:
    """Return how long a job ran, of a row by its columns; ValueError where nothing tells."""
    # A length does not tell its unit, as dates do.
    with suppress(ValueError):
        dates = [read_date(_first(texts, (when, f"{when}time"))) for when in ("start", "end")]
        start, end = (date.replace(tzinfo=date.tzinfo or UTC) for date in dates)
        return (end - start).total_seconds()
    return read_length(_first(texts, LENGTH_COLUMNS), "s")


def _first(texts: Mapping[str, str], names: Iterable[str]) -> str:
    """Return the text of the first of some columns that a row has, or none."""
    return next((texts[name] for name in names if name in texts), "")
