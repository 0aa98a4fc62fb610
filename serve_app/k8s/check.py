"""All checks over a set of objects, in the order in which a mistake is best understood."""

from collections.abc import Sequence

from serve_app.k8s.documents import Document
from serve_app.k8s.pod_rules import pod_mistakes
from serve_app.k8s.schema import schema_mistakes
from serve_app.k8s.service_rules import service_mistakes
from serve_app.k8s.serving_rules import serving_mistakes
from serve_app.k8s.set_rules import set_mistakes


def check_documents(documents: Sequence[Document]) -> list[str]:
    """Every mistake as a sentence; none means good. Rules are asked only of a set whose schemas hold."""
    found = [said for document in documents for said in schema_mistakes(document)]
    if found:
        return found
    services = [document for document in documents if document.kind == "RayService"]
    if not services:
        return ["no RayService among the objects"]
    for service in services:
        for rules in (service_mistakes, pod_mistakes, serving_mistakes):
            found += [f"{service}: {said}" for said in rules(service.body)]
        found += list(set_mistakes(documents, service))
    return found
