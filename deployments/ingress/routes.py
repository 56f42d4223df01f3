"""The routes of router/routes.py, and the console's files."""

from deployments.ingress.console import ASSETS
from router.routes import GET, ROUTES, Audience, Route, Table

FILES = tuple(
    Route(path, GET, Audience.ANYONE, "console") for path in sorted(ASSETS.keys() - {"/"})
)
TABLE = Table((*ROUTES, *FILES))
