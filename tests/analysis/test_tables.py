"""Markdown tables leave the text of their cells unchanged."""

from espnet_gq.analysis.tables import markdown


def test_cells_that_look_like_numbers_stay_as_they_are():
    text = markdown(["model", "WER"], [["a", "5.10"], ["b | c", "1e3"], ["", "0.0"]])
    rows = [[c.strip() for c in line[1:-1].rsplit("|", 1)] for line in text.split("\n")]
    assert rows[0] == ["model", "WER"]
    assert rows[2:] == [["a", "5.10"], ["b | c", "1e3"], ["", "0.0"]]
    assert rows[1][0].startswith(":-") and rows[1][1].endswith("-:")


def test_a_table_without_rows_is_its_header():
    assert markdown(["a", "b"], []).split("\n")[0].replace(" ", "") == "|a|b|"
