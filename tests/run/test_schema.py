import json

import pytest

from mnemonics_tf.run import schema

NESTED = json.loads("[" * 50 + "]" * 50)


@pytest.mark.parametrize(
    ("shape", "right", "wrong", "message"),
    [
        (schema.whole(), 3, 3.0, ": expected a whole number from 0 to"),
        (schema.whole(), 0, True, "found true"),
        (schema.whole(), 2**53, 10**400, "found 1000"),
        (schema.number(), -0.5, 10**400, ": expected a number, found 1000"),
        (schema.number(0), 10, -1, "a number from 0 up, found -1"),
        (schema.number(0, 1), 1, float("nan"), "a number from 0 to 1, found NaN"),
        (schema.number(finite=False), float("nan"), "nan", 'found "nan"'),
        (schema.text, "a", None, ": expected a text, found null"),
        (schema.text, "caf\xe9", "caf\udce9", "expected a text in UTF-8"),
        (schema.plain, ["a"], ["\ud800"], "/0: expected a text in UTF-8"),
        (schema.mapping(schema.text), {"x": "a"}, {"\ud800": "a"}, "is no name in UTF-8"),
        (schema.flag, False, 0, "true or false"),
        (schema.one_of("a", 1), 1, True, 'expected "a" or 1, found true'),
        (schema.plain, ["a", 1, None], [["a"]], "/0: expected a plain value"),
        (schema.plain, 2, 10**400, "expected a plain value"),
        (schema.anything, {"a": [{"b": 1}]}, {"a": [10**400]}, "/a/0: expected"),
        (schema.anything, {}, NESTED, "values within each other"),
        (schema.optional(schema.text), None, 3, "expected a text"),
        (schema.sequence(schema.text, length=1), ["a"], [], ": expected 1 entries, found 0"),
        (schema.sequence(schema.text, at_least=1), ["a"], [], "at least 1 entries"),
        (schema.sequence(schema.text), [], {}, "expected a list, found an object"),
        (schema.mapping(schema.text), {"x": "a"}, {"x": 1}, "/x: expected a text"),
        (schema.fields({"x": schema.text}), {"x": "", "y": 1}, {"y": 1}, "'x' is missing"),
        (schema.fields({}, {"x": schema.text}), {}, {"x": 1}, "/x: expected a text"),
        (schema.fields({}, {}), {}, [], "expected an object, found a list"),
    ],
)
def test_shapes(shape, right, wrong, message):
    assert shape(right) is None
    assert message in shape(wrong)
    assert len(shape(wrong)) < 200
