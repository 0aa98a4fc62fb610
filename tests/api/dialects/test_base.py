from serve_app.api.dialects.base import Speakers
from serve_app.api.dialects.openai import OpenAIErrors


def test_errors_have_the_shape_of_the_longest_prefix_that_is_known():
    default, outer, inner = OpenAIErrors(), OpenAIErrors(), OpenAIErrors()
    speakers = Speakers(default, {"/v1/a": outer, "/v1/a/b": inner})
    found = [speakers.of(path) for path in ("/v1/a", "/v1/a/c", "/v1/a/b/c", "/v1/b", "")]
    assert found == [outer, outer, inner, default, default]
