"""docs/API.md lists exactly the routes that the application has, and who may use them."""

import re
from pathlib import Path

from fastapi import APIRouter
from fastapi.routing import APIRoute

from market.api import app
from market.api.openapi import who

PAGE = (Path(__file__).parents[2] / "docs" / "API.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (GET|POST|PUT|HEAD|DELETE) \| `([^`?]+)(?:\?[^`]*)?` \| ([\w, ]+) \| .+ \|$", re.M)


def routers() -> list[APIRouter]:
    """Those that the application includes: each module of routes that app.py imports has one."""
    return [module.router for module in vars(app).values() if isinstance(getattr(module, "router", None), APIRouter)]


def test_the_page_lists_every_route_with_its_roles() -> None:
    routes = [route for router in routers() for route in router.routes]
    assert all(isinstance(route, APIRoute) for route in routes)
    found = {
        (method, route.path, ", ".join(who(route)))
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    assert len(found) > 40
    assert set(ROW.findall(PAGE)) == found
