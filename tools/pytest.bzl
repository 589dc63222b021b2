"""A test file that pytest runs."""

load("@rules_python//python:defs.bzl", "py_test")

def pytest_test(name, data = [], deps = []):
    """Runs the test file of the same name through tools/run_pytest.py.

    Args:
        name: of the target, and of the file without `.py`.
        data: files that it reads.
        deps: what it imports; pytest and the conftest.py of its folders too.
    """
    file = name + ".py"
    py_test(
        name = name,
        srcs = [file, "//tools:run_pytest.py"],
        args = [native.package_name() + "/" + file],
        data = data or ["//:pyproject.toml"],
        main = "//tools:run_pytest.py",
        deps = deps,
    )
