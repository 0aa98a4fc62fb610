""""""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.grading import get_metric
from serve_app.grading.exact import last_number
from tests.grading.rows import dataset


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9 * $2 = $<<9*2=18>>18.\n#### 18", "18"),
        ("#### 42", "42"),
        ("####42", "42"),
        ("#### $460", "460"),
        ("#### -1,234.50 dollars", "-1234.5"),
        ("#### 18\n\nQuestion: what is 2 + 2?", "18"),
        ("#### 1. First step\nWe add 3 and 4, which is 7.", "7"),
        ("#### Step 1\n2 + 3 = 5", "5"),
        ("#### 12. The end", "12"),
        ("#### \nso 9", "9"),
        ("first 3, then 4", "4"),
        ("1,234,567", "1234567"),
        ("between 1,2 and 3,4", "4"),
        ("12,34", "34"),
        ("3.5.", "3.5"),
        ("about .75", "0.75"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("\u22125", "-5"),
        ("10-3", "3"),
        ("10 - 3", "3"),
        ("(2)-1", "1"),
        ("x = -7", "-7"),
        ("5%", "5"),
        ("7km", "7"),
        ("the 3rd", "3"),
        ("007", "7"),
        ("**18**", "18"),
        ("\\boxed{18}", "18"),
        ("€1,000.00", "1000"),
    ],
)
def test_the_last_number_is_read(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "####", "½", "٣", "...", "$", "-"])
def test_there_may_be_none(text):
    assert last_number(text) is None


@given(
    st.decimals(-(10**12), 10**12, places=2), st.sampled_from(["{}", "it is ${}.", "#### {}", "so\n{}\n", "= {} eggs"])
)
def test_any_writing_of_a_number_is_read(value, frame):
    assert last_number(frame.format(value)) == value
    assert last_number(frame.format(f"{value:,}")) == value


@given(st.text())
def test_any_text_is_read_without_a_fault(text):
    number = last_number(text)
    assert number is None or number.is_finite()


async def test_values_are_compared_not_their_writing():
    rows = dataset({"small": [["18.00", "$18", "18 eggs", "81", "eighteen"]]}, ["16 - 3 - 4 = 9\n9 * 2 = 18\n#### 18"])
    assert (await get_metric("number").score(rows)).weak.quality.tolist() == [[1, 1, 1, 0, 0]]
