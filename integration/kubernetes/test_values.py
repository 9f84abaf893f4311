"""Each value of the chart changes what it should, and nothing else (varied.py has them); and README names no value that is not varied.

Run by `make test-kubernetes`.
"""

import re
import unittest

import yaml

from chart import HOME, ROOT, checked_text, merged, rendered, valid
from varied import GONE, VARIED, Holds, changes, facts

VALUES = yaml.safe_load((HOME / "chart" / "values.yaml").read_text())


def said(name, value):
    """The values that say it."""
    for key in reversed(name.split(".")):
        value = {key: value}
    return value


def leaves(values, path=""):
    """Every value of the chart, by its name; one that is varied as a whole is not taken apart."""
    for key, value in values.items():
        name = f"{path}{key}"
        if isinstance(value, dict) and value and name not in VARIED:
            yield from leaves(value, f"{name}.")
        else:
            yield name


def table():
    """The rows of README's table of values, as lists of cells."""
    section = (ROOT / "README.md").read_text().split("### In Kubernetes\n", 1)[1].split("\n### ", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def spans(cell):
    return re.findall(r"`([^`]+)`", cell)


def is_value(span):
    """Whether a code span in a sentence is a value's name, and not a word such as `annotated`."""
    return span.split(".")[0] in VALUES and re.fullmatch(r"[A-Za-z_]+(\.[A-Za-z_]+)*", span) is not None


def unvaried(rows):
    """The values that rows name and that nothing varies."""
    named = [span for row in rows for span in spans(row[0])]
    named += [span for row in rows for cell in row[1:] for span in spans(cell) if is_value(span)]
    return [name for name in named if name not in VARIED]


class Values(unittest.TestCase):
    maxDiff = None

    def test_each_value_changes_what_it_should_and_nothing_else(self):
        for name, varied in VARIED.items():
            with self.subTest(value=name):
                made = []
                before, after = varied.under, merged(varied.under, said(name, varied.to))
                for values, variables in [(before, {}), (after, {"POD_IP": varied.pod})]:
                    objects = rendered(values)
                    for one in objects.values():
                        valid(one)
                    (text,) = [one["data"]["pathloom.yaml"] for (kind, _), one in objects.items() if kind == "ConfigMap"]
                    code, words = checked_text(text, **variables)
                    self.assertEqual(code, 0, words)
                    made.append(facts(objects, yaml.safe_load(text)))
                found = changes(*made)
                self.assertTrue(found, "nothing changes")
                self.assertEqual(set(found), set(varied.changes))
                for place, value in varied.changes.items():
                    self.assertEqual(value, found[place], place)

    def test_every_value_of_the_chart_is_varied(self):
        self.assertEqual([name for name in leaves(VALUES) if name not in VARIED], [])
        # And nothing else is, but what the chart reads of the configuration.
        others = set(VARIED) - set(leaves(VALUES))
        self.assertEqual({name.split(".")[0] for name in others}, {"config"})

    def test_every_value_that_readme_names_is_varied(self):
        rows = table()
        self.assertGreaterEqual(len(rows), 14)
        self.assertEqual(unvaried(rows), [], "varied.py must vary each value that README names")
        # Whatever is named there is looked at: further ones of a row, and those in its sentences.
        for row in [["`image.digest`", "", ""], ["`image.tag`, `image.digest`", "", ""], ["`image.tag`", "", "beside `image.digest`"], ["`digest`", "", ""]]:
            self.assertEqual(len(unvaried([row])), 1, row)
        for row in [["`capture.pods`", "`all`", "`annotated` captures"], ["`rbac.create`", "", "`discover: [{ kubernetes: … }]`"]]:
            self.assertEqual(unvaried([row]), [], row)

    def test_readme_s_defaults_are_the_chart_s(self):
        for names, default, _ in table():
            for name, says in zip(spans(names), default.split(", ")):
                if spans(says) != [says.strip("`")]:
                    continue  # In words.
                at = VALUES
                for key in name.split("."):
                    at = at[key]
                self.assertEqual(yaml.safe_load(says.strip("`")), at, name)

    def test_a_change_is_seen_wherever_it_is(self):
        before = {"a": {"b": 1, "c": [1]}, "d": 2}
        self.assertEqual(changes(before, {"a": {"b": 2, "c": [1, 2]}, "e": 3}), {"a.b": 2, "a.c": [1, 2], "d": GONE, "e": 3})
        self.assertEqual(changes(before, before), {})
        self.assertEqual(Holds({"a.b": 1}), before)
        self.assertNotEqual(Holds({"a.b": 2}), before)
        self.assertNotEqual(Holds({"a.x": 1}), before)


if __name__ == "__main__":
    unittest.main()
