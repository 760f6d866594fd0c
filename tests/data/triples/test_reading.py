"""Knowledge graphs from files of every form, and what is said of broken ones."""

import gzip

import numpy as np
import pytest

from equipoise.data import read_triples


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def _words(graph, part="train"):
    return graph.words(getattr(graph, part))


def test_names_are_text_and_ids_their_order(tmp_path):
    graph = read_triples(_write(tmp_path / "g.tsv", "None\tNA\t01\n1\tnan\tNone\n"))
    assert graph.entity_names == ("01", "1", "None")
    assert graph.relation_names == ("NA", "nan")
    assert _words(graph) == [("None", "NA", "01"), ("1", "nan", "None")]
    other = read_triples(_write(tmp_path / "h.tsv", "1\tnan\tNone\n\nNone\tNA\t01"))
    assert other.entity_names == graph.entity_names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("g.csv", "subject,predicate,object\na,r,b\n"),
        ("g.csv", '"b","r","a"\n'.replace('"b","r","a"', '"a","r","b"')),
        ("g.csv", "tail,weight,head,relation\nb,3,a,r\n"),
        ("g.txt", "a\tr\tb\r\n"),
        ("g.txt", "\ufeffh\tr\tt\na\tr\tb\n"),
        ("g.txt", "a r b\n"),
        ("g.txt", "a,r,b\n"),
        ("g.kg", "head_id:token\trelation_id:token\ttail_id:token\na\tr\tb\n"),
    ],
)
def test_a_file_with_and_without_header(tmp_path, name, text):
    graph = read_triples(_write(tmp_path / name, text))
    assert _words(graph) == [("a", "r", "b")]
    assert not len(graph.test)


def test_columns_of_other_names_and_quotes(tmp_path):
    path = _write(tmp_path / "g.csv", 'who,what,whom\n"Ann, the elder",knows,"Bob ""B"""\n')
    graph = read_triples(path, head="who", relation="what", tail="whom")
    assert _words(graph) == [("Ann, the elder", "knows", 'Bob "B"')]
    with pytest.raises(ValueError, match=r"head column 'wo' is not in .*; its first line has who, what, whom"):
        read_triples(path, head="wo")
    with pytest.raises(ValueError, match="does not say which column is the relation and the tail"):
        read_triples(path, head="who")


def test_quotes_between_tabs_are_letters(tmp_path):
    graph = read_triples(_write(tmp_path / "g.tsv", 'the "A\tr\tb\n'))
    assert _words(graph) == [('the "A', "r", "b")]


def test_a_folder_of_parts(tmp_path):
    _write(tmp_path / "train.txt", "a\tr\tb\nb\tr\tc\n")
    _write(tmp_path / "dev.tsv", "c\ts\ta\n")
    with gzip.open(tmp_path / "test.csv.gz", "wt", encoding="utf-8") as file:
        file.write("head,relation,tail\na,r,d\n")
    graph = read_triples(tmp_path)
    assert (_words(graph), _words(graph, "validation")) == ([("a", "r", "b"), ("b", "r", "c")], [("c", "s", "a")])
    assert _words(graph, "test") == [("a", "r", "d")]
    assert [graph.entity_names[k] for k in graph.unseen] == ["d"]
    _write(tmp_path / "valid.txt", "c\ts\ta\n")
    with pytest.raises(ValueError, match=r"has both valid.txt and dev.tsv; leave one"):
        read_triples(tmp_path)


def test_openke_has_the_relation_last(tmp_path):
    _write(tmp_path / "entity2id.txt", "3\nNew York\t1\nb\t0\n01 2\n")
    _write(tmp_path / "relation2id.txt", "1\n/in/\t0\n")
    _write(tmp_path / "train2id.txt", "2\n0 1 0\n1 2 0\n")
    _write(tmp_path / "test2id.txt", "1\n2\t0\t0\n")
    graph = read_triples(tmp_path)
    assert graph.entity_names == ("b", "New York", "01")
    assert _words(graph) == [("b", "/in/", "New York"), ("New York", "/in/", "01")]
    assert _words(graph, "test") == [("01", "/in/", "b")]
    for name, text, words in (
        ("train2id.txt", "3\n0 1 0\n", "train2id.txt, line 1: says 3 lines, but 1 follow"),
        ("train2id.txt", "1\n0 1\n", "train2id.txt, line 2: has 2 fields, wanted 3"),
        ("train2id.txt", "1\n0 0 1\n", "train2id.txt, line 2: holds '1', wanted a number below 1"),
        ("train2id.txt", "0 1 0\n", "train2id.txt, line 1: holds 3 fields, wanted one number"),
        ("entity2id.txt", "2\na\t0\nb\t0\n", "entity2id.txt, line 3: number 0 is that of 'a' already"),
        ("entity2id.txt", "1\na\t-1\n", "entity2id.txt, line 2: holds '-1', wanted a number below 1"),
    ):
        kept = (tmp_path / name).read_text(encoding="utf-8")
        _write(tmp_path / name, text)
        with pytest.raises(ValueError, match=words):
            read_triples(tmp_path)
        _write(tmp_path / name, kept)
    (tmp_path / "relation2id.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"relation2id\.txt"):
        read_triples(tmp_path)


def test_recbole_links_items_to_entities(tmp_path):
    _write(tmp_path / "m.kg", "head_id:token\trelation_id:token\ttail_id:token\nm.1\tr\tm.2\n")
    link = _write(tmp_path / "m.link", "item_id:token\tentity_id:token\n7\tm.2\n8\tm.9\n")
    for path in (tmp_path, tmp_path / "m.kg"):
        graph = read_triples(path)
        assert graph.entity_names == ("m.1", "m.2", "m.9")
        assert graph.items == {"7": 1, "8": 2}
    _write(link, "item_id:token\tentity_id:token\n7\tm.2\n7\tm.1\n")
    with pytest.raises(ValueError, match=r"m.link, line 3: item '7' has an entity already"):
        read_triples(tmp_path)
    _write(link, "item\tentity\n7\tm.2\n")
    with pytest.raises(ValueError, match=r"m.link, line 1: must name item_id and entity_id, got item, entity"):
        read_triples(tmp_path)


def test_arrays_and_the_names_beside_them(tmp_path):
    path = tmp_path / "g.npz"
    parts = {"train": np.array([[0, 0, 1]], dtype=np.int32), "valid": np.zeros((0, 3), dtype=np.int32)}
    np.savez(path, **parts, n_entities=4, n_relations=2)
    graph = read_triples(path)
    assert (graph.num_entities, graph.num_relations, graph.entity_names) == (4, 2, None)
    _write(tmp_path / "g_entities.csv", "id,symbol,text\n1,NA,a\n0,None,b\n3,d,\n2,01,x\n")
    assert read_triples(path).entity_names == ("None", "NA", "01", "d")
    _write(tmp_path / "g_relations.csv", "id,relation\n0,r\n")
    with pytest.raises(ValueError, match="relation_names must have one name for each of 2, got 1"):
        read_triples(path)
    np.savez(path, test=parts["train"])
    with pytest.raises(ValueError, match=r"has no array train; it has test"):
        read_triples(path)
    _write(path, "no archive")
    with pytest.raises(ValueError, match="cannot be read as arrays"):
        read_triples(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\tr\tb\na\tr\n", r"g.tsv, line 2: has 2 fields, wanted 3 \(head, relation and tail\)"),
        ("a\tr\tb\n\na\t\tb\n", r"g.tsv, line 3: field 2 is empty"),
        ("", "g.tsv is empty"),
        ("head\trelation\ttail\n", "g.tsv has a header but no triples"),
        ("a\n", "g.tsv, line 1: has 1 field, wanted 3"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, words):
    with pytest.raises(ValueError, match=words):
        read_triples(_write(tmp_path / "g.tsv", text))


def test_files_that_are_not_there_or_no_text(tmp_path):
    path = _write(tmp_path / "graph.tsv", "a\tr\tb\n")
    with pytest.raises(FileNotFoundError, match=r"did you mean .*graph.tsv"):
        read_triples(tmp_path / "grahp.tsv")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_triples(path)
    with pytest.raises(FileNotFoundError, match=r"has no train.txt.*it has graph.tsv"):
        read_triples(tmp_path)
    (tmp_path / "bad.tsv.gz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be read"):
        read_triples(tmp_path / "bad.tsv.gz")
