import functools
import hashlib
import http.server
import json
import threading
from pathlib import Path

import pytest

from tests.conftest import P3_LIKE, ROOT

SAMPLE = "0,add,a\n0,add,b\n60000,remove,a\n120000,add,c\n"


@pytest.fixture
def sample(write):
    return write(SAMPLE, "sample.csv")


def test_info_fits_eighty_columns(lazsim):
    code, out, _ = lazsim("trace", "info", P3_LIKE)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "burstiness" in out
    assert "█" in out


def test_info_json_is_one_object_and_notes_stay_off_stdout(lazsim, sample):
    code, out, err = lazsim("trace", "info", sample, "--json")
    info = json.loads(out)
    assert code == 0
    assert (info["format"], info["num_events"], info["peak_nodes"], info["span_s"]) == ("bamboo", 4, 2, 120.0)
    assert info["sha256"] == hashlib.sha256(SAMPLE.encode()).hexdigest()
    assert info["burstiness"] is None
    assert err.startswith("note: ")


def test_info_of_a_capped_stretch(answered, sample):
    stretch = ("--start", "30s", "--duration", "60s", "--max-nodes", 1, "--cap", "clip")
    info = answered("trace", "info", sample, *stretch)
    assert (info["peak_nodes"], info["span_s"]) == (1, 60.0)


def test_info_tells_places_where_the_order_of_nodes_does_not(lazsim, write):
    text = "# format: lazsim-trace 1\n# places: {}\ntime_s,event,nodes\n0,add,a b\n60,remove,a\n"
    told = "their places            0 to 4, which their order does not tell\n"
    assert told in lazsim("trace", "info", write(text.format("a:0 b:4")))[1]
    assert "places" not in lazsim("trace", "info", write(text.format("a:0 b:1")))[1]


def test_info_says_what_a_trace_does_not_define_by_a_dash(lazsim, write):
    path = write("0,add,a\n", "still.csv")
    code, out, _ = lazsim("trace", "info", path)
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert code == 0
    assert "nan" not in out
    assert rows["losses that take all"].strip() == "-"
    assert rows["nodes alive"].split()[0] == "-"


def test_convert_keeps_every_event(lazsim, sample, tmp_path):
    out = tmp_path / "out.csv"
    assert lazsim("trace", "convert", sample, "--to", "lazsim", "--out", out)[0] == 0
    assert out.read_text().splitlines()[-4:] == ["time_s,event,nodes", "0,add,a b", "60,remove,a", "120,add,c"]
    first = out.read_bytes()
    assert lazsim("trace", "convert", sample, "--to", "lazsim", "--out", out)[0] == 0
    assert out.read_bytes() == first


def test_generate_makes_the_bundled_bytes(lazsim, tmp_path):
    for path in (ROOT / "traces").glob("*.csv"):
        assert lazsim("trace", "generate", path.stem, "--seed", 0, "--out", tmp_path / "made.csv")[0] == 0
        assert (tmp_path / "made.csv").read_bytes() == path.read_bytes()


def test_fit_writes_a_recipe_that_generates(lazsim, tmp_path):
    recipe, made = tmp_path / "mine.toml", tmp_path / "made.csv"
    code, out, _ = lazsim("trace", "fit", P3_LIKE, "--seeds", 3, "--out", recipe)
    assert code == 0
    assert 'kind = "spot"' in out
    assert lazsim("trace", "generate", recipe, "--out", made)[0] == 0
    assert json.loads(lazsim("trace", "info", made, "--json")[1])["peak_nodes"] == 32


def test_generate_from_an_mtbf_and_a_repair_time_goes_to_stdout(lazsim, tmp_path):
    code, out, _ = lazsim("trace", "generate", "--nodes", 64, "--node-mtbf", "50d", "--repair", "4h")
    (tmp_path / "made.csv").write_text(out)
    info = json.loads(lazsim("trace", "info", tmp_path / "made.csv", "--json")[1])
    assert code == 0
    assert (info["initial_nodes"], info["span_s"]) == (64, 30 * 86400)
    # 64 nodes x 30 d / 50 d = 38 losses, standard deviation 6
    assert 20 < info["num_losses"] < 57


def test_generate_changes_fields_of_a_recipe(lazsim):
    out = lazsim("trace", "generate", "meta-rsc-1", "--nodes", 16, "--duration", "7d", "--shape", 0.7)[1]
    assert "# recipe: meta-rsc-1" in out
    assert '"num_nodes":16,"mtbf_s":13292308.0,"shape":0.7,' in out
    assert "# duration_s: 604800\n" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nodes", 4), "give --node-mtbf and --repair"),
        (("spot-p3-like", "--shape", 2), "--shape: spot-p3-like is a recipe without it"),
        (("meta-rsc-1", "--shape", -3), "--shape: expected a number above 0, found '-3'"),
        (
            ("meta-rsc-1", "--batch-share", 0.3),
            "--batch-share also needs one of --domains, --batch-nodes or nodes_per_domain (that of a --cluster)",
        ),
        (
            ("meta-rsc-1", "--domains", 8),
            "give a --batch-share above 0 with --domains, --batch-nodes or nodes_per_domain",
        ),
        (
            ("meta-rsc-1", "--nodes", 4, "--batch-share", 0.3, "--domains", 8),
            "--domains and --batch-nodes are at most",
        ),
        (("meta-rsc-1", "--node-mtbf", "1ms", "--batch-share", 1, "--domains", 8), "more than 1,048,576 events"),
    ],
)
def test_options_that_make_no_recipe_are_refused_in_a_line(refused, arguments, said):
    assert said in refused("trace", "generate", *arguments)


def test_fit_json(answered):
    found = answered("trace", "fit", P3_LIKE, "--seeds", 3)
    assert found["recipe"]["target_nodes"] == 32
    assert set(found["fit"]["num_losses"]) == {"real", "median", "p5", "p95"}


def test_list_names_recipes_and_public_traces(lazsim):
    kinds = {name: entry["kind"] for name, entry in json.loads(lazsim("trace", "list", "--json")[1])["traces"].items()}
    assert kinds["spot-p3-like"] == "spot"
    assert kinds["fail-every-5min"] == "schedule"
    assert kinds["bamboo-p3"] == "public"
    out = lazsim("trace", "list")[1]
    assert all(name in out for name in kinds)
    assert max(map(len, out.splitlines())) <= 84


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_plot_writes_the_same_picture_each_time(lazsim, tmp_path, suffix, magic):
    out = tmp_path / f"nodes.{suffix}"
    assert lazsim("trace", "plot", P3_LIKE, "--out", out)[0] == 0
    first = out.read_bytes()
    assert first.startswith(magic)
    lazsim("trace", "plot", P3_LIKE, "--out", out)
    assert out.read_bytes() == first


def test_lenient_says_what_it_repaired(lazsim, write):
    path = write(SAMPLE + "oops\n", "bad.csv")
    assert lazsim("trace", "info", path)[0] == 2
    code, _, err = lazsim("trace", "info", path, "--lenient")
    assert code == 0
    assert "lenient: 1 time" in err


BAD = {
    "empty": b"",
    "binary": b"\x00\x01\x02",
    "prose": b"nothing to see here\n",
    "bad line": SAMPLE.encode() + b"x,y,z\n",
    "twice": SAMPLE.encode() + b"120000,add,c\n",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_one_line_and_exit_2_and_leaves_nothing(refused, tmp_path, name):
    path, out = tmp_path / "bad.csv", tmp_path / "out.csv"
    path.write_bytes(BAD[name])
    assert str(path) in refused("trace", "convert", path, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", P3_LIKE, "--start", "20h"),
        ("info", P3_LIKE, "--duration", "80"),
        ("info", P3_LIKE, "--format", "bamboo"),
        ("plot", P3_LIKE, "--out", "picture.gif"),
        ("convert", P3_LIKE, "--out", "/proc/nowhere/out.csv"),
        ("generate", "spot-p3-lik", "--out", "unused.csv"),
        ("generate", "bamboo-p3", "--out", "unused.csv"),
        ("fetch", "bambo-p3"),
        ("fetch", "spot-p3-like"),
        ("info", "nowhere.csv"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(refused, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    refused("trace", *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def mirror(tmp_path):
    """A local server with the layout of raw.githubusercontent.com, and a catalogue entry for a file of it."""
    root = tmp_path / "mirror"
    folder = root / "owner" / "name" / "abc1234" / "data"
    folder.mkdir(parents=True)
    (folder / "sample.csv").write_text(SAMPLE)
    entry = tmp_path / "entry.toml"
    digest = hashlib.sha256(SAMPLE.encode()).hexdigest()
    entry.write_text(
        f'kind = "public"\nlicence = "MIT"\nrepository = "owner/name"\ncommit = "abc1234"\npath = "data/sample.csv"\n'
        f'sha256 = "{digest}"\nformat = "bamboo"\n'
    )

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=root))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", entry, folder / "sample.csv"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetch(tmp_path, entry, *options):
    return ("trace", "fetch", entry, "--cache", tmp_path / "cache", "--out", tmp_path / "fetched.csv", *options)


def test_fetch_gets_the_file_and_keeps_it(lazsim, tmp_path, mirror):
    url, entry, served = mirror
    for _ in range(2):
        code, _, err = lazsim(*fetch(tmp_path, entry, "--base-url", url))
        assert code == 0, err
        assert (tmp_path / "fetched.csv").read_text() == SAMPLE
        (tmp_path / "fetched.csv").unlink()
        served.unlink(missing_ok=True)


def test_fetch_takes_the_mirror_from_the_environment(lazsim, tmp_path, mirror, monkeypatch):
    monkeypatch.setenv("LAZSIM_FETCH_URL", mirror[0] + "/")
    assert lazsim(*fetch(tmp_path, mirror[1]))[0] == 0


@pytest.mark.parametrize(
    ("spoil", "base_url", "said"),
    [
        (lambda served: served.write_text(SAMPLE + "180000,add,d\n"), None, "SHA-256"),
        (Path.unlink, None, "404"),
        (Path.exists, "http://127.0.0.1:9", "127.0.0.1:9"),
        (Path.exists, "nonsense", "nonsense"),
    ],
    ids=["other bytes", "no file", "no server", "no address"],
)
def test_fetch_that_fails_is_one_line_and_keeps_nothing(refused, tmp_path, mirror, spoil, base_url, said):
    url, entry, served = mirror
    spoil(served)
    assert said in refused(*fetch(tmp_path, entry, "--base-url", base_url or url))
    assert not (tmp_path / "fetched.csv").exists()
    assert not (tmp_path / "cache").exists()


def test_reference_files_all_have_an_entry_with_their_hash(shared):
    from lazsim.trace.recipes import PublicSpec, list_recipes

    pinned = {recipe.sha256 for recipe in list_recipes().values() if isinstance(recipe, PublicSpec)}
    files = [path for path in (shared / "traces").rglob("*") if path.is_file()]
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == pinned


def test_every_reference_file_has_its_statistics(lazsim, shared):
    for path in (shared / "traces").rglob("*.*"):
        assert lazsim("trace", "info", path)[0] == 0
