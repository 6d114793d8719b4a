"""The command line: one function a command. Bad input gives one line and exit code 2."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import click

from pddgraph import build, evaluate, icd, recommend, sample, tables
from pddgraph.drugs import SCORES, Linker, read_vocabulary
from pddgraph.tables import PddError
from pddgraph.worker import TABLES, Pool

FORMATS = {name.lower(): media for media, name in TABLES.items()}
PATH = click.Path(path_type=Path)
DRUGBANK = click.option("--drugbank", type=PATH, required=True, help="DrugBank's open vocabulary, CSV.")
GRAPH = click.option("--graph", type=PATH, default="graph", help="Folder of a graph.")
OUT = click.option("--out", type=PATH, required=True, help="Folder to write.")
TIMEOUT = click.option("--timeout", type=click.IntRange(1, 10**6), default=10, help="Seconds of a query.")
MAX_BYTES = click.option("--max-bytes", type=click.IntRange(1, 1 << 40), default=32 << 20, help="Bytes of a result.")


class Program(click.Group):
    """Ends with one line when the input is bad."""

    def invoke(self, ctx: click.Context) -> None:
        """Run a command."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
            return
        except PddError as error:
            message = str(error)
        except click.UsageError as error:
            message = error.format_message()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(141)
        except OSError as error:
            message = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
        except KeyboardInterrupt:
            sys.exit(130)
        print("pdd:", "".join(one if one.isprintable() else ascii(one)[1:-1] for one in message), file=sys.stderr)
        sys.exit(2)


@click.group(cls=Program, context_settings={"show_default": True})
def main() -> None:
    """Build and query a graph of patients, diseases and drugs from MIMIC-III."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@main.command("build")
@click.option("--mimic", type=PATH, required=True, help="Folder with MIMIC-III's tables, .csv or .csv.gz.")
@DRUGBANK
@OUT
def build_graph(mimic: Path, drugbank: Path, out: Path) -> None:
    """Build a graph from tables."""
    manifest = build.build(mimic, drugbank, out)
    rows, linked = manifest["rows"], manifest["linked"]
    print(f"{out}: {sum(manifest['quads'].values()):,} quads of {rows['PATIENTS']:,} patients; rows linked:")
    for name in ("DIAGNOSES_ICD", "PROCEDURES_ICD", "PRESCRIPTIONS"):
        supplies = rows["containers and supplies"] if name == "PRESCRIPTIONS" else 0
        total = rows[name] - supplies
        print(f"  {name}: {linked[name]:,} of {total:,} ({linked[name] / max(total, 1):.1%})", end="")
        print(f"; {supplies:,} containers and supplies left out" if supplies else "")


@main.command()
@click.argument("mimic", type=PATH)
def verify(mimic: Path) -> None:
    """Check that the tables of a folder are as they should be."""
    for name, count in tables.verify(mimic).items():
        print(f"{name}: {count:,} rows, as they should be")


@main.command("eval")
@DRUGBANK
def evaluate_links(drugbank: Path) -> None:
    """Measure the links of drugs on hand-labelled names."""
    linker, labels = Linker(read_vocabulary(drugbank)), evaluate.read_labels()
    groups = {name: [one for one in labels if one.sample == name] for name in dict.fromkeys(one[0] for one in labels)}
    groups |= {way: [one for one in labels if linker.link(one.name).method == way] for way in SCORES}
    print("hand-labelled names  names  links  right  precision  recall")
    for title, group in (one for one in groups.items() if one[1]):
        got = evaluate.score(linker, group)
        print(f"{title:<19}  {got.names:5}  {got.made:5}  {got.right:5}  {got.precision:9.1%}  {got.recall:6.1%}")
    for label in labels:
        if not label.fits(found := linker.link(label.name).targets):
            print(f"{label.sample}: {label.name}: {' + '.join(found) or 'no link'}, not {label}")


@main.command()
@click.argument("file", type=click.File("rb"))
@GRAPH
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="csv", help="Format of a table.")
@TIMEOUT
@MAX_BYTES
def query(file: BinaryIO, graph: Path, form: str, timeout: int, max_bytes: int) -> None:
    """Answer the SPARQL query of a file, or of stdin for -; graphs come as Turtle."""
    build.open_graph(graph)
    try:
        asked = {"query": file.read().decode(), "accept": [FORMATS[form], "text/turtle"]}
    except UnicodeDecodeError:
        raise PddError(f"{file.name}: no UTF-8") from None

    async def answer() -> bytes:
        async with Pool(graph, 1, timeout, max_bytes) as pool:
            return (await pool.ask(asked))[1]

    sys.stdout.buffer.write(asyncio.run(answer()))


@main.command()
@GRAPH
@click.option("--host", default="127.0.0.1", help="Address to listen on; the default is this machine only.")
@click.option("--port", type=click.IntRange(0, 65535), default=7878, help="Port; 0: a free one.")
@click.option("--workers", type=click.IntRange(1, 256), default=2, help="Queries at a time.")
@click.option(
    "--allow-origin", default="", help="Pages that may ask: an origin, * or none; if not given, * for open data."
)
@TIMEOUT
@MAX_BYTES
def serve(graph: Path, host: str, port: int, workers: int, allow_origin: str, timeout: int, max_bytes: int) -> None:
    """Serve a graph over HTTP, read-only."""
    import uvloop

    from pddgraph import server  # Other commands start faster without it.

    uvloop.run(server.serve(Pool(graph, workers, timeout, max_bytes), host, port, allow_origin))


@main.command("recommend")
@GRAPH
@click.option("--diseases", required=True, help="ICD-9-CM codes, as in 4280,42731.")
@click.option("--top", type=click.IntRange(1), default=15, help="Drugs to show.")
def recommend_drugs(graph: Path, diseases: str, top: int) -> None:
    """Show what similar patients got, what all patients get, and how much the first adds. No medical advice."""
    build.open_graph(graph)
    codes = {code: icd.link(code, "diagnosis") for code in diseases.split(",")}
    if None in codes.values():
        unknown = ", ".join(code for code, notation in codes.items() if not notation)
        raise PddError(f"--diseases {tables.shorten(unknown)}: no code of ICD-9-CM; give codes such as 4280,42731")
    recommender, name_of = recommend.read(graph)
    result, popular = recommend.evaluate(recommender), recommender.popular()
    near = recommender.rank({notation.split(".")[0] for notation in codes.values()})
    if not near:
        raise PddError(f"--diseases {diseases}: no patient of the graph has any of them")
    print(f"{'similar patients':<34} share   {'all patients':<34} share")
    for one, other in zip(list(near)[:top], popular, strict=False):
        share = recommender.popularity[other] / len(recommender.patients)
        print(f"{name_of[one][:34]:<34} {near[one]:5.0%}   {name_of[other][:34]:<34} {share:5.0%}")
    gain = result.nearest - result.popular
    print(
        f"\n{result.tested} patients left out one by one, {result.size} drugs each; overlap with what they got:\n"
        f"Jaccard of drugs of similar patients {result.nearest:.3f}, of the most popular drugs {result.popular:.3f}; "
        f"better for {result.better} patients, worse for {result.worse}.\n"
        f"The difference is {gain:+.3f}{': next to nothing' if abs(gain) < 0.03 else ''}.\n"
        "This is no medical advice: it says what patients of this database got, not what helps."
    )


@main.command("sample")
@OUT
@click.option("--patients", type=click.IntRange(1), default=100, help="How many.")
def make_sample(out: Path, patients: int) -> None:
    """Make a synthetic database."""
    if out.exists() and any(out.iterdir()):
        raise PddError(f"{out}: is there and not empty; give another folder")
    sample.write(out, patients, 1)


if __name__ == "__main__":
    main(prog_name="pdd")
