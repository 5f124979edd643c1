"""docs/add-a-*.md: every file and entry written out there is laid in a project, and works."""

import pages
from projects import small


def tiny_table(**changed):
    """Parameters of one table whose rows have one member and two epochs."""
    params = small(["pgd_at"], 20, epochs=2, train_images=64, validate_every=0)
    params["tables"]["table1"] |= {"members": [1], "reference": "pgd_at", **changed}
    params["scales"]["demo"]["attacks"]["pgd10"] = {"steps": 2}
    return params


def accuracies(rows, *columns):
    """The numbers of a table's columns, fractions all."""
    found = [float(row[column]) for row in rows.values() for column in columns]
    assert all(0 <= value <= 1 for value in found)
    return found


def test_every_method_of_the_page_is_trained_and_judged(tmp_path):
    page = "add-a-method.md"
    names = {path.split("/")[-1].removesuffix(".py") for path in pages.files(page)}
    assert names == {"smooth", "taught", "two_balls", "remembering", "adam_at"}
    rows = pages.make(pages.lay(tmp_path, page, tiny_table()))
    assert set(rows) == {"pgd_at", "smooth3", *names}
    accuracies(rows, "clean", "pgd10")
