import pytest

from pddgraph import evaluate, icd, text
from pddgraph.drugs import MAX_NAME, NAMED, Drug, Linker, names, read_vocabulary
from tests.conftest import CASES

DRUGS = [Drug(f"DB{place:05}", name, (), ()) for place, name in enumerate(CASES["drugs"])]
DRUGS.append(Drug("DB90000", "Acetylsalicylic acid", ("Aspirin", "ASA"), ()))
DRUGS += [Drug("DB90001", "One", ("Twofold",), ()), Drug("DB90002", "Two", ("Twofold",), ())]
NAME_OF = {drug.drug_id: drug.name for drug in DRUGS}


@pytest.mark.parametrize(("name", "method", "drugs"), [*CASES["names"], ("x" * (MAX_NAME + 1), "abstained", [])])
def test_names_of_drugs_are_linked_in_stages_or_not_at_all(name, method, drugs):
    link = Linker(DRUGS).link(name)
    assert (link.method, [NAME_OF[target] for target in link.targets]) == (method, drugs)


@pytest.mark.parametrize(("name", "generic", "used"), CASES["orders"])
def test_the_generic_name_decides_where_the_name_is_open(name, generic, used):
    found = Linker([*DRUGS, Drug("DB99999", "Insulin glargine", (), ())]).link_order(name, generic)
    assert [one for one, _ in found] == used
    assert found[-1][1].targets == {"Insulin Glargine": ("DB99999",), "Lasix": ("DB00003",)}.get(used[-1], ())


@pytest.mark.parametrize(("code", "kind", "notation"), CASES["codes"])
def test_codes_that_exist_link_and_others_do_not(code, kind, notation):
    assert (icd.link(code, kind) or "") == notation


def test_the_tree_reaches_a_chapter_from_every_code():
    # 428.0 congestive heart failure: category 428, block 420-429, chapter 390-459 (diseases of the circulatory system).
    concepts = {one.notation: one for one in (*icd.diagnoses().values(), *icd.procedures().values())}
    path = ["428.0"]
    while broader := concepts[path[-1]].broader:
        path.append(broader)
    assert path == ["428.0", "428", "420-429", "390-459"]
    assert len(concepts) == len(icd.diagnoses()) + len(icd.procedures())
    assert all(one.broader in concepts for one in concepts.values() if one.broader)
    # Version 32 has 19 chapters of diagnoses and 18 of procedures.
    assert sum(not one.broader for one in concepts.values()) == 19 + 18


@pytest.mark.parametrize(("words", "found"), CASES["texts"])
def test_diseases_in_texts_come_with_how_they_are_mentioned(words, found):
    assert [[mention.notation, mention.status] for mention in text.find(words)] == found


@pytest.fixture(scope="session")
def linker(demo):
    return Linker(read_vocabulary(demo / "drugbank_vocabulary.csv"))


@pytest.mark.parametrize("sample", evaluate.SAMPLES)
def test_links_of_hand_labelled_names_are_precise_and_complete(linker, sample):
    score = evaluate.score(linker, [label for label in evaluate.read_labels() if label.sample == sample])
    assert score.names == 100
    assert score.precision >= 0.98
    assert score.recall >= 0.95


def test_every_name_of_the_table_of_names_stands_for_drugs_that_drugbank_has(linker):
    assert {name for section in NAMED for name, _ in names(section)} == linker.aliases.keys()
