"""The table and the chart of results."""

import json
from xml.etree import ElementTree as ET

import pytest

from bench import chart, report
from bench.rows import Result, Round
from bench.stretches import Figures

MET = Result("a", "transfers < pgbench & co", 3.1, 3)
MISSED = Result("b", "latency", 5.0, 1, at_least=False)
ROUNDS: list[Round] = [
    {"transfers": Figures(2000, 50, 90, 0.3, 0.1), "settling": Figures(5000)},
    {"transfers": Figures(1000, 70, 80, 0.2, 0.2), "settling": Figures(6000)},
    {"transfers": Figures(3000, 60, 70, 0.4, 0.3), "settling": Figures(7000)},
]
RUN = report.Run(ROUNDS, [MET, MISSED], {"idle": [70.5]})


def test_medians_are_taken_figure_by_figure() -> None:
    assert report.medians(ROUNDS) == {"transfers": Figures(2000, 60, 80, 0.3, 0.2), "settling": Figures(6000)}


def test_the_table_tells_what_is_met_and_what_is_missed() -> None:
    lines = list(report.table([RUN]))
    assert [line.split()[-1] for line in lines[-2:]] == ["met", "MISSED"]
    assert next(line for line in lines if line.startswith("settling")).split() == ["settling", "6000", *"––––"]


def test_the_document_has_every_round() -> None:
    written = json.loads(json.dumps(report.document([RUN], {"rounds": 3})))
    assert written["rounds"][0][1]["transfers"]["p99_ms"] == 80
    assert [result["met"] for result in written["results"]] == [True, False]
    assert written["memory_mb"] == {"idle": [70.5]}


def test_the_chart_is_xml_with_a_bar_for_each_result() -> None:
    root = ET.fromstring(chart.svg("aiopypay", [MET, MISSED]))  # noqa: S314 - it is our own
    space = "{http://www.w3.org/2000/svg}"
    bars = [bar for bar in root.iter(f"{space}rect") if bar.get("fill") in (chart.MET, chart.MISSED)]
    assert [bar.get("fill") for bar in bars] == [chart.MET, chart.MISSED]
    # Five times the target would leave the picture.
    assert float(bars[1].get("width", "0")) == pytest.approx(chart.TARGET_AT * chart.FURTHEST)
    assert any(text.text == MET.title for text in root.iter(f"{space}text"))
