from camcore.adapters.evaluation.faithfulness import NAMES
from camcore.adapters.evaluation.localisation import Localisation
from camcore.adapters.evaluation.summary import FIGURES, figure_rows


def test_figures_have_rows_where_they_are_there() -> None:
    found = {"localisation": {"max_box_acc": 0.456, "pointing_game": None}, "boxes": None}
    assert [row[:2] for row in figure_rows(found)] == [("MaxBoxAcc", "45.6%")]


def test_rows_are_of_figures_that_exist() -> None:
    known = {("localisation", name) for name in Localisation().figures()}
    known |= {("faithfulness", name) for name in NAMES}
    known |= {("boxes", name) for name in ("mAP", "mAP50", "recall_100")}
    assert set(FIGURES) <= known
    assert {name for part, name in FIGURES if part == "faithfulness"} == {*NAMES}
