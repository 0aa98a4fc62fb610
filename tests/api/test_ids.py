import re

from serve_app.api.middleware import Ids


def test_ids_are_24_hexadecimal_digits_and_never_the_same():
    ids = Ids()
    made = [ids.new() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch("[0-9a-f]{24}", one) for one in made)
