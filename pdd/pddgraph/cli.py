"""The command line: one function a command. Bad input gives one line and exit code 2."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from pddgraph import build as building
from pddgraph import evaluate as evaluation
from pddgraph import icd, tables
from pddgraph import recommend as advice
from pddgraph import sample as synthetic
from pddgraph.drugs import SCORES, Linker, read_vocabulary
from pddgraph.tables import PddError
from pddgraph.worker import TABLES, Pool, ask_once

NO_ADVICE = "This is no medical advice: it says what patients of this database got, not what helps."
FORMATS = {name.lower(): media for media, name in TABLES.items()}


def progress(name: str, count: int) -> None:
    """Say on stderr how far a table is."""
    print(f"{name}: {count:,}", file=sys.stderr, flush=True)


def build(args: argparse.Namespace) -> None:
    """Build a graph from tables."""
    manifest = building.build(args.mimic, args.drugbank, args.out, progress)
    rows, linked = manifest["rows"], manifest["linked"]
    print(f"{args.out}: {sum(manifest['quads'].values()):,} quads of {rows['PATIENTS']:,} patients; rows linked:")
    for name in ("DIAGNOSES_ICD", "PROCEDURES_ICD", "PRESCRIPTIONS"):
        supplies = rows["containers and supplies"] if name == "PRESCRIPTIONS" else 0
        total = rows[name] - supplies
        print(f"  {name}: {linked[name]:,} of {total:,} ({linked[name] / max(total, 1):.1%})", end="")
        print(f"; {supplies:,} containers and supplies left out" if supplies else "")


def verify(args: argparse.Namespace) -> None:
    """Check that tables are as they should be."""
    for name, count in tables.verify(args.mimic, progress).items():
        print(f"{name}: {count:,} rows, as they should be")


def evaluate(args: argparse.Namespace) -> None:
    """Measure the links of drugs on hand-labelled names."""
    linker, labels = Linker(read_vocabulary(args.drugbank)), evaluation.read_labels()
    groups = {name: [one for one in labels if one.sample == name] for name in dict.fromkeys(one[0] for one in labels)}
    groups |= {way: [one for one in labels if linker.link(one.name).method == way] for way in SCORES}
    print("hand-labelled names  names  links  right  precision  recall")
    for title, group in (one for one in groups.items() if one[1]):
        got = evaluation.score(linker, group)
        print(f"{title:<19}  {got.names:5}  {got.made:5}  {got.right:5}  {got.precision:9.1%}  {got.recall:6.1%}")
    for label in labels:
        if not label.fits(found := linker.link(label.name).targets):
            print(f"{label.sample}: {label.name}: {' + '.join(found) or 'no link'}, not {label}")


def query(args: argparse.Namespace) -> None:
    """Answer a SPARQL query."""
    building.open_graph(args.graph)
    try:
        text = (sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PddError(f"{args.file}: cannot be read: {getattr(error, 'strerror', None) or 'no UTF-8'}") from None
    pool = Pool(args.graph, 1, args.timeout, args.max_bytes)
    sys.stdout.buffer.write(asyncio.run(ask_once(pool, text, FORMATS[args.format])))


def serve(args: argparse.Namespace) -> None:
    """Serve a graph over HTTP, read-only."""
    import uvloop

    from pddgraph import server  # Other commands start faster without it.

    def say(address: str) -> None:
        print(f"{address} serves {args.graph}; SPARQL at {address}sparql; Ctrl-C ends it", flush=True)

    pool = Pool(args.graph, args.workers, args.timeout, args.max_bytes)
    uvloop.run(server.serve(pool, args.host, args.port, args.allow_origin, say))


def recommend(args: argparse.Namespace) -> None:
    """Show what similar patients got, what all patients get, and how much the first adds. No medical advice."""
    building.open_graph(args.graph)
    codes = {code: icd.link(code, "diagnosis") for code in args.diseases.split(",")}
    if unknown := ", ".join(code for code, notation in codes.items() if not notation) or not codes:
        raise PddError(f"--diseases {tables.shorten(unknown)}: no code of ICD-9-CM; give codes such as 4280,42731")
    recommender, name_of = advice.read(args.graph)
    result, popular = advice.evaluate(recommender), recommender.popular()
    near = recommender.rank({advice.category(notation) for notation in codes.values()})
    if not near:
        raise PddError(f"--diseases {args.diseases}: no patient of the graph has any of them")
    print(f"{'similar patients':<34} share   {'all patients':<34} share")
    for one, other in zip(list(near)[: args.top], popular, strict=False):
        share = recommender.popularity[other] / len(recommender.patients)
        print(f"{name_of[one][:34]:<34} {near[one]:5.0%}   {name_of[other][:34]:<34} {share:5.0%}")
    gain = result.nearest - result.popular
    print(
        f"\n{result.tested} patients left out one by one, {result.size} drugs each; overlap with what they got:\n"
        f"Jaccard of drugs of similar patients {result.nearest:.3f}, of the most popular drugs {result.popular:.3f}; "
        f"better for {result.better} patients, worse for {result.worse}.\n"
        f"The difference is {gain:+.3f}{': next to nothing' if abs(gain) < 0.03 else ''}.\n{NO_ADVICE}"
    )


def sample(args: argparse.Namespace) -> None:
    """Make a synthetic database."""
    if args.out.exists() and any(args.out.iterdir()):
        raise PddError(f"{args.out}: is there and not empty; give another folder")
    synthetic.write(args.out, args.patients, 1)


def number(kind: type, low: float, high: float) -> Callable[[str], float]:
    """Return a reader of numbers from `low` to `high`."""

    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text}: expected a number from {low} to {high:,}")

    return read


OPTIONS = {
    "--mimic": {"type": Path, "metavar": "DIR", "help": "folder with MIMIC-III's tables, .csv or .csv.gz"},
    "--drugbank": {"type": Path, "metavar": "FILE", "help": "DrugBank's open vocabulary, CSV"},
    "--out": {"type": Path, "metavar": "DIR", "help": "folder to write"},
    "--graph": {"type": Path, "default": Path("graph"), "metavar": "DIR", "help": "folder of a graph (default: graph)"},
    "--timeout": {"type": number(float, 0.1, 1e6), "default": 10, "help": "seconds of a query (default: 10)"},
    "--max-bytes": {"type": number(int, 1, 1 << 40), "default": 32 << 20, "help": "of a result (default: 32 MiB)"},
    "--format": {"choices": FORMATS, "default": "csv", "help": "format of the result (default: csv)"},
    "--host": {"default": "127.0.0.1", "help": "address to listen on (default: this machine only)"},
    "--port": {"type": number(int, 0, 65535), "default": 7878, "help": "port (default: 7878; 0: a free one)"},
    "--workers": {"type": number(int, 1, 256), "default": 2, "metavar": "N", "help": "queries at a time (default: 2)"},
    "--allow-origin": {"default": "", "help": "pages that may ask: an origin, * or none (default: * for open data)"},
    "--diseases": {"metavar": "CODES", "help": "ICD-9-CM codes, as in 4280,42731"},
    "--top": {"type": number(int, 1, 10**6), "default": 15, "metavar": "N", "help": "drugs to show (default: 15)"},
    "--patients": {"type": number(int, 1, 10**9), "default": 100, "metavar": "N", "help": "default: 100"},
    "mimic": {"type": Path, "metavar": "DIR", "help": "folder with MIMIC-III's tables"},
    "file": {"metavar": "FILE", "help": "file with a SPARQL query, or - for stdin"},
}  # fmt: skip
"""What options are; a command that cannot do without one writes it with an exclamation mark."""
COMMANDS = {
    "build": (build, "--mimic! --drugbank! --out!"),
    "verify": (verify, "mimic"),
    "eval": (evaluate, "--drugbank!"),
    "query": (query, "file --graph --format --timeout --max-bytes"),
    "serve": (serve, "--graph --host --port --workers --allow-origin --timeout --max-bytes"),
    "recommend": (recommend, "--graph --diseases! --top"),
    "sample": (sample, "--out! --patients"),
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="pdd", description="A graph of patients, diseases and drugs from MIMIC-III.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, options) in COMMANDS.items():
        one = commands.add_parser(name, help=run.__doc__.removesuffix("."), description=run.__doc__)
        one.set_defaults(run=run)
        for option in options.split():
            needed = {"required": True} if option.endswith("!") else {}
            one.add_argument(option.rstrip("!"), **OPTIONS[option.rstrip("!")], **needed)
    return top


def main(argv: list[str] | None = None) -> None:
    """Run a command."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        args.run(args)
        sys.stdout.flush()
        return
    except PddError as error:
        message = str(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except OSError as error:
        message = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
    except KeyboardInterrupt:
        sys.exit(130)
    print("pdd:", "".join(one if one.isprintable() else ascii(one)[1:-1] for one in message), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
