""".ci/count.py: the one line CI ends with is the sum of what really ran."""

import importlib.util
import json
import pathlib

import pytest

_PATH = pathlib.Path(__file__).resolve().parents[2] / ".ci/count.py"
_XML = """<testsuites><testsuite name="s">
<testcase name="a"/><testcase name="b"/>
<testcase name="c"><failure message="no"/></testcase>
<testcase name="d"><error message="no"/></testcase>
<testcase name="e"><skipped type="pytest.skip"/></testcase>
<testcase name="f" status="notrun"/>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def count():
    spec = importlib.util.spec_from_file_location("count", _PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _result(label, status, xml=None):
    outputs = [{"name": "test.log", "uri": "file:///x"}]
    if xml:
        outputs.append({"name": "test.xml", "uri": f"file://{xml}"})
    return {
        "id": {"testResult": {"label": label}},
        "testResult": {"status": status, "testActionOutput": outputs},
    }


def _events(tmp_path, *events):
    path = tmp_path / "events"
    path.write_text("\n".join(json.dumps(e) for e in events), encoding="utf-8")
    return path


def test_cases(count):
    assert count.count_xml(_XML) == {"passed": 2, "failed": 2, "skipped": 2}


def test_sums_targets(count, tmp_path):
    xml = tmp_path / "a b.xml"
    xml.write_text('<testsuite><testcase name="a"/></testsuite>', encoding="utf-8")
    uri = str(xml).replace(" ", "%20")
    events = _events(tmp_path, _result("//a", "PASSED", uri), _result("//b", "PASSED", uri))
    total, failed = count.count_events(events, 0)
    assert (total, failed) == ({"passed": 2, "failed": 0, "skipped": 0}, [])


def test_a_target_that_dies_counts_once(count, tmp_path):
    xml = tmp_path / "a.xml"
    xml.write_text('<testsuite><testcase name="a"/></testsuite>', encoding="utf-8")
    events = _events(tmp_path, _result("//a", "TIMEOUT", str(xml)), _result("//b", "FAILED"))
    total, failed = count.count_events(events, 3)
    assert total == {"passed": 1, "failed": 2, "skipped": 0}
    assert len(failed) == 2


def test_what_does_not_build_fails(count, tmp_path):
    broken = {"id": {"targetCompleted": {"label": "//a"}}, "completed": {}}
    fine = {"id": {"targetCompleted": {"label": "//b"}}, "completed": {"success": True}}
    total, failed = count.count_events(_events(tmp_path, broken, fine), 1)
    assert total == {"passed": 0, "failed": 1, "skipped": 0}
    assert failed == ["//a: failed to build"]


def test_bazel_that_ends_badly_fails(count, tmp_path):
    total, failed = count.count_events(tmp_path / "no such file", 2)
    assert total["failed"] == 1
    assert failed == ["bazel ended with status 2"]


@pytest.mark.parametrize(
    ("counts", "line", "status"),
    [
        ([(3, 0, 1), (2, 0, 0)], "5 passed, 0 failed, 1 skipped", 0),
        ([(3, 0, 1), (2, 1, 0)], "5 passed, 1 failed, 1 skipped", 1),
        ([(0, 0, 4)], "0 passed, 0 failed, 4 skipped", 1),
        ([], "0 passed, 0 failed, 0 skipped", 1),
    ],
)
def test_the_last_line(count, tmp_path, capsys, counts, line, status):
    names = []
    for i, values in enumerate(counts):
        path = tmp_path / f"{i}.count"
        path.write_text(json.dumps(dict(zip(("passed", "failed", "skipped"), values, strict=True))))
        names.append(str(path))
    assert count.main(["count.py", "--sum", *names]) == status
    assert capsys.readouterr().out == line + "\n"
