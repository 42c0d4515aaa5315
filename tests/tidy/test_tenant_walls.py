"""What keeps tenants apart is in the code's own shape: this reads it.

Nothing under /tenant takes a tenant's id or has a database; all it reaches takes a `TenantScope`; only the sign-in makes one.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from fastapi import FastAPI

from gateway.api import tenant
from tests.tidy.test_tidy import ROOT, modules, name

API = sorted((ROOT / "gateway" / "api" / "tenant").glob("*.py"))
OWN = ROOT / "billing" / "operations" / "own.py"
MAKER = "gateway/auth/tenant_side.py"
OF_BILLING = {"billing.meter", "billing.money", "billing.operations.own", "billing.grants.grant", "billing.tenants.tenant"}  # values, and the one way in
OF_GATEWAY = {
    "gateway.auth.roles",
    "gateway.auth.tenant_side",
    "gateway.config.forms",
    "gateway.wire.documents",
    "gateway.wire.download",
    "gateway.wire.instants",
    "gateway.wire.problems",
}
OF_FASTAPI = {"APIRouter", "Depends", "Query", "Response"}  # not Request, Header, Cookie or Body, by which a request could say anything
OF_DESK = {"scope", "hasher", "identity", "now_us", "changed"}


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in OF_BILLING else (str(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""


def names_a_tenant(word: str) -> bool:
    return "tenant" in word.lower() or "org" in word.lower().split("_")


def test_the_tenant_api_reaches_the_books_by_one_way_alone() -> None:
    assert len(API) > 5
    for path in API:
        for module, what in imports(ast.parse(path.read_text())):
            root = module.partition(".")[0]
            allowed = {"billing": OF_BILLING, "gateway": OF_GATEWAY}.get(root)
            assert allowed is None or module in allowed, f"{name(path)} imports {module}.{what}"
            assert root not in ("sqlmodel", "sqlalchemy", "starlette"), f"{name(path)} imports {module}"
            assert root != "fastapi" or what in OF_FASTAPI, f"{name(path)} imports {what} of {module}"


def test_no_endpoint_of_a_tenant_names_one_or_touches_more_of_its_desk_than_it_may() -> None:
    for path in API:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.arg):
                assert not names_a_tenant(node.arg), f"{name(path)}:{node.lineno} takes {node.arg}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "desk":
                assert node.attr in OF_DESK, f"{name(path)}:{node.lineno} uses desk.{node.attr}"
            if isinstance(node, ast.Attribute) and node.attr == "scope":
                calls = [call for call in ast.walk(tree) if isinstance(call, ast.Call) and call.args and call.args[0] is node]
                ways = [ast.unparse(call.func) for call in calls]
                assert len(ways) == 1 and ways[0].startswith("own."), f"{name(path)}:{node.lineno}: a scope is for functions of `own`, first"


def test_no_request_to_the_tenant_api_can_say_a_tenant() -> None:
    app = FastAPI()
    app.include_router(tenant.build_router())
    schema = app.openapi()
    said = []
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            said += [(method, path, parameter["name"]) for parameter in operation.get("parameters", [])]
            for media in operation.get("requestBody", {}).get("content", {}).values():
                form = schema["components"]["schemas"][media["schema"]["$ref"].rpartition("/")[2]]
                assert form["additionalProperties"] is False, f"{method} {path} takes what it does not know"
                said += [(method, path, field) for field in form["properties"]]
    assert len(said) > 8
    assert [one for one in said if names_a_tenant(one[2])] == []


def test_all_that_a_tenant_reaches_takes_a_scope_and_no_id_beside_it() -> None:
    public = [node for node in ast.parse(OWN.read_text()).body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    assert len(public) > 8
    for node in public:
        first, *others = node.args.args + node.args.kwonlyargs
        assert ast.unparse(first.annotation or ast.Constant("")) == "TenantScope", f"{node.name} takes no scope"
        for other in others:
            assert not names_a_tenant(other.arg) and "Database" not in ast.unparse(other.annotation or ast.Constant("")), f"{node.name} takes {other.arg}"
    for told in ast.walk(ast.parse(OWN.read_text())):
        if isinstance(told, ast.keyword) and told.arg is not None and names_a_tenant(told.arg):
            assert ast.unparse(told.value) == "scope.tenant_id", f"line {told.value.lineno}: {told.arg} is not the scope's"


def test_only_the_sign_in_makes_a_scope() -> None:
    makers = [
        name(path)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and "TenantScope" in ast.unparse(node.func)
    ]
    assert makers == [MAKER]
    takers = {name(path) for path in modules() if "TenantScope" in path.read_text() and path.suffix == ".py"}
    assert takers == {MAKER, "billing/operations/own.py", "billing/tenants/scope.py"}


def test_the_sign_in_takes_the_tenant_from_whom_it_has_believed() -> None:
    (call,) = [node for node in ast.walk(ast.parse(Path(ROOT / MAKER).read_text())) if isinstance(node, ast.Call) and ast.unparse(node.func) == "TenantDesk"]
    assert [ast.unparse(one) for one in call.args] == ["parts", "identity", "tenant_id"]
    assert "tenant_id = identity.tenant_id" in Path(ROOT / MAKER).read_text()
