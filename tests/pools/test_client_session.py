"""Bodies that are not valid HTTP: what came before is read, at once, however TCP cut it."""

from time import monotonic

import pytest

from tests.pools.odd_upstreams import GOOD, HEL, LO, chunked, http
from tests.pools.outcomes import check, same_for_all_cuts
from tests.pools.test_odd_upstreams import CUT, EARLY, ODD

BROKE = "the upstream broke off inside the stream"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (chunked(HEL, ended=False) + b"zz\r\n", CUT | {"error": BROKE}),
        (chunked(HEL, ended=False) + b"5\r\nhello world\r\n", CUT | {"error": BROKE}),
        (chunked(b"", ended=False) + b"zz\r\n", ODD | {"error": BROKE}),
        (http(GOOD, Content_Length=str(len(HEL))), CUT | {"error": EARLY}),
        (http(LO + GOOD, Content_Length="abc"), ODD),
    ],
)
async def test_what_came_before_an_error_is_read_at_once(raw, expected):
    start_s = monotonic()
    check(await same_for_all_cuts(raw, True), expected)
    assert monotonic() - start_s < 20, "one timeout of the pool"
