import json
import shutil
import subprocess
from pathlib import Path

import pyoxigraph as ox
import pyshacl
import pytest
import rdflib

from pddgraph import build, recommend
from pddgraph.cli import main
from pddgraph.rdf import PREFIXES, Graph, ask, literal
from pddgraph.tables import PddError
from tests.conftest import PDD, make

SHAPES = str(Path(build.__file__).parent / "data" / "shapes.ttl")


def test_the_graph_has_every_row_of_the_tables(graph, tables):
    for name, kind in (("PATIENTS", "Patient"), ("DIAGNOSES_ICD", "Diagnosis"), ("PRESCRIPTIONS", "Prescription")):
        rows = len((tables / f"{name}.csv").read_text().splitlines()) - 1
        assert list(ask(graph, f"SELECT (COUNT(?one) AS ?n) {{ ?one a pdd:{kind} }}")) == [(str(rows),)]


def test_an_order_leads_over_its_mention_and_link_to_its_drugs(graph):
    query = """SELECT DISTINCT ?text ?method ?name { ?link a pdd:Link ; pdd:mention ?mention ; pdd:method ?method ;
        pdd:target ?drug . ?drug a pdd:Drug ; skos:prefLabel ?name . ?mention pdd:text ?text
        FILTER EXISTS { ?order a pdd:Prescription ; pdd:mention ?mention } }"""
    found = set(ask(graph, query))
    assert ("Metoprolol Tartrate", "normalised", "Metoprolol") in found
    combined = {name for text, _, name in found if text == "OxycoDONE-Acetaminophen Elixir"}
    assert combined == {"Oxycodone", "Acetaminophen"}
    status = dict(ask(graph, "SELECT ?text ?status { ?mention pdd:text ?text ; pdd:status ?status }"))
    assert (status["Vial"], status["Multivitamins"], status["71970"]) == ("supply", "abstained", "abstained")


def test_graphs_name_source_and_licence(graph, tables, tmp_path):
    query = "SELECT ?graph ?licence { GRAPH graph:about { ?graph dcterms:license ?licence } }"
    licences = {name.rsplit("/", 1)[1]: licence for name, licence in ask(graph, query)}
    assert licences["mimic"] == licences["links"] == licences["drugbank"] == build.CC0
    assert "publicdomain" in licences["icd9cm"]
    names = {name.rsplit("/", 1)[1] for (name,) in ask(graph, "SELECT DISTINCT ?g { GRAPH ?g { ?s ?p ?o } }")}
    assert names == {"about", *licences} == {path.stem for path in graph.glob("*.nq")}
    folder, about = shutil.copytree(tables, tmp_path / "tables"), Graph(tmp_path, "about")
    (folder / "LICENSE.txt").write_text("PhysioNet Credentialed Health Data License")
    assert "view-license" in build.write_sources(about, folder)
    (folder / "LICENSE-drugbank.txt").write_text("CC0 1.0 Universal")  # Of several, none counts.
    assert build.write_sources(about, folder) == ""


def test_the_same_tables_give_the_same_bytes_and_replace_the_graph(graph, tables, tmp_path):
    shutil.copytree(graph, tmp_path / "graph")
    make(tables, tmp_path / "graph")
    for path in graph.glob("*.nq"):
        assert (tmp_path / "graph" / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["graph"]


def test_a_build_that_is_stopped_leaves_nothing(tables, tmp_path):
    vocabulary = tables / "drugbank_vocabulary.csv"
    command = [*PDD, "build", "--mimic", tables, "--drugbank", vocabulary, "--out", tmp_path / "graph"]
    for line in ("PATIENTS", "quads"):  # While the tables are read, and while the store is loaded.
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            next(said for said in process.stderr if said.startswith(line))
            process.terminate()
        assert (process.returncode, list(tmp_path.iterdir())) == (143, [])


def test_a_folder_that_is_no_graph_is_not_replaced(tables, tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(PddError, match="no graph of pdd"):
        make(tables, tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PddError, match="the folder you are in"):
        make(tables, Path())


def test_the_graph_holds_to_its_shapes_and_the_shapes_find_faults(graph):
    # All orders and all of ICD-9-CM would take a minute: 99 orders, and the codes that links name with what is above.
    query = """CONSTRUCT { ?one ?is ?other } {
        { SELECT DISTINCT ?one { { ?link pdd:target/skos:broader* ?one } UNION { ?one a ?kind
            FILTER(?kind != skos:Concept && !REGEX(STR(?one), "prescription/[0-9]{3}")) } } }
        ?one ?is ?other }"""
    triples = ox.Store.read_only(str(graph / "store")).query(query, prefixes=PREFIXES, use_default_graph_as_union=True)
    data = rdflib.Graph().parse(data=triples.serialize(format=ox.RdfFormat.N_TRIPLES), format="nt")
    pdd = rdflib.Namespace(PREFIXES["pdd"])
    fits, _, report = pyshacl.validate(data, shacl_graph=SHAPES)
    assert fits, report
    link, paths = next(data.subjects(rdflib.RDF.type, pdd.Link)), ("target", "mention", "score")
    for path in paths:
        data.remove((link, pdd[path], None))
    fits, _, report = pyshacl.validate(data, shacl_graph=SHAPES)
    assert not fits
    assert all(f"{path}->" in report or f"pdd:{path}" in report for path in paths)


def test_notes_are_searched_and_wrong_ones_left_out(tables, tmp_path):
    folder = shutil.copytree(tables, tmp_path / "tables")
    notes = 'ROW_ID,SUBJECT_ID,HADM_ID,ISERROR,TEXT\n1,10006,100001,,"No asthma.\nAcute MI, ""severe"""\n'
    (folder / "NOTEEVENTS.csv").write_text(notes + "2,10006,100001,1,CHF\n3,10006,,,CHF\n")
    make(folder, tmp_path / "graph")
    query = "SELECT ?text ?how { ?m pdd:text ?text ; pdd:assertion ?how FILTER(CONTAINS(STR(?m), '/note/')) }"
    assert sorted(ask(tmp_path / "graph", query)) == [("asthma", "negated"), ("mi", "affirmed")]


def test_literals_survive_a_round_trip():
    for text in ('a"b\\c', "tab\t, line\n, \r", "\x01\x7f", "żółć", "\u2028"):
        quad = next(iter(ox.parse(f"<a:a> <a:b> {literal(text)} .".encode(), format=ox.RdfFormat.N_TRIPLES)))
        assert quad.object.value == text


def test_recommendations_rank_what_neighbours_got_and_leave_the_patient_out():
    # Three patients with disease a got drug x, three with b got y, all got z; a patient with b is left out.
    diseases = {f"{one}{number}": {one} for one in "ab" for number in range(3)}
    given = {patient: {"x" if "a" in patient else "y", "z"} for patient in diseases}
    recommender = recommend.Recommender(diseases, given)
    assert list(recommender.rank({"a"}).items()) == [("z", pytest.approx(1)), ("x", pytest.approx(1))]
    assert recommender.rank({"unknown"}) == {}
    assert recommender.popular()[0] == "z"
    # Two drugs each. Neighbours find both; popularity finds z and, without the patient, the other group's drug: 1 of 3.
    assert recommend.evaluate(recommender) == (6, 2, 1.0, pytest.approx(1 / 3), 6, 0)
    # Of the two neighbours of patient 1, one got x and one y: that 1 got y, too, must not put y first.
    recommender = recommend.Recommender({one: {"a"} for one in "123"}, {"1": {"y"}, "2": {"x"}, "3": {"y"}})
    assert list(recommender.rank({"a"}, "1")) == ["x", "y"]


def test_the_demo_gives_the_golden_counts_and_linked_shares(demo, tmp_path, capsys):
    manifest = make(demo / "mimic-iii-demo", tmp_path / "graph", demo / "drugbank_vocabulary.csv")
    rows, linked = manifest["rows"], manifest["linked"]
    # Counts of the published tables; 581 distinct codes exist, and two procedures (36.01, 36.05) are retired codes.
    assert (rows["PATIENTS"], rows["ADMISSIONS"], rows["PRESCRIPTIONS"]) == (100, 129, 10398)
    assert (linked["DIAGNOSES_ICD"], rows["DIAGNOSES_ICD"]) == (1761, 1761)
    assert (linked["PROCEDURES_ICD"], rows["PROCEDURES_ICD"]) == (504, 506)
    assert linked["PRESCRIPTIONS"] / (rows["PRESCRIPTIONS"] - rows["containers and supplies"]) >= 0.95
    assert "opendatacommons.org" in manifest["licence"]
    codes = "SELECT (COUNT(?link) AS ?n) { ?link a pdd:Link FILTER(CONTAINS(STR(?link), '/link/diagnosis/')) }"
    assert list(ask(tmp_path / "graph", codes)) == [("581",)]
    main(["recommend", "--graph", str(tmp_path / "graph"), "--diseases", "4280"], standalone_mode=False)
    assert "next to nothing" in capsys.readouterr().out
    assert json.loads((tmp_path / "graph" / "pdd.json").read_text()) == manifest
