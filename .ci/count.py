"""Counts the test cases of one `bazel test` from its build events, and sums such counts.

    count.py EVENTS COUNT_FILE STATUS     one invocation; prints what failed
    count.py --sum COUNT_FILE...          prints "N passed, N failed, N skipped", sets the status

A case counts as its XML says. A target that failed with no failed case in its XML (it did not
build, crashed, ran out of time) counts as one failure, as does an invocation that ended badly with
nothing else to show for it. Standard library only: this runs with the machine's own python3.
"""

import json
import pathlib
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

Count = dict[str, int]


def count_xml(text: str) -> Count:
    """Cases of one JUnit or googletest file."""
    count = {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.fromstring(text).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            count["failed"] += 1
        elif case.find("skipped") is not None or case.get("status") == "notrun":
            count["skipped"] += 1
        else:
            count["passed"] += 1
    return count


def _add(total: Count, more: Count) -> None:
    for key, value in more.items():
        total[key] += value


def count_events(events: pathlib.Path, status: int) -> tuple[Count, list[str]]:
    """The count of an invocation and its failed targets."""
    total = {"passed": 0, "failed": 0, "skipped": 0}
    failed = []
    lines = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
    for line in lines:
        event = json.loads(line)
        kind = event["id"]
        if "testResult" in kind:
            result = event["testResult"]
            count = {"passed": 0, "failed": 0, "skipped": 0}
            for output in result.get("testActionOutput", []):
                if output["name"] == "test.xml":
                    path = urllib.parse.unquote(urllib.parse.urlparse(output["uri"]).path)
                    try:
                        count = count_xml(pathlib.Path(path).read_text(encoding="utf-8"))
                    except (OSError, ElementTree.ParseError) as error:
                        print(f"{kind['testResult']['label']}: {error}", file=sys.stderr)
            if result["status"] not in ("PASSED", "FLAKY"):
                failed.append(f"{kind['testResult']['label']}: {result['status']}")
                count["failed"] = max(count["failed"], 1)
            elif not any(count.values()):
                # It passed and says nothing of cases: it is one itself.
                count["passed"] = 1
            _add(total, count)
        elif "targetCompleted" in kind:
            if not event.get("completed", {}).get("success") and "aborted" not in event:
                # A test that ran and failed was built: its own event counts it.
                failed.append(f"{kind['targetCompleted']['label']}: failed to build")
                total["failed"] += 1
            elif "aborted" in event and event["aborted"].get("reason") != "SKIPPED":
                failed.append(f"{kind['targetCompleted']['label']}: {event['aborted']}")
                total["failed"] += 1
    if status and not total["failed"]:
        failed.append(f"bazel ended with status {status}")
        total["failed"] += 1
    return total, failed


def main(argv: list[str]) -> int:
    if argv[1] == "--sum":
        total = {"passed": 0, "failed": 0, "skipped": 0}
        for name in argv[2:]:
            _add(total, json.loads(pathlib.Path(name).read_text(encoding="utf-8")))
        print(", ".join(f"{value} {key}" for key, value in total.items()))
        return 0 if total["passed"] and not total["failed"] else 1
    count, failed = count_events(pathlib.Path(argv[1]), int(argv[3]))
    pathlib.Path(argv[2]).write_text(json.dumps(count), encoding="utf-8")
    for line in failed:
        print(line, file=sys.stderr)
    pathlib.Path(argv[1]).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
